//! How a volume is to be used: what Kubernetes asks for, typed. Pure.

use rustix::mount::MountFlags;
use twinshore_csi_proto::csi::VolumeCapability;
use twinshore_csi_proto::csi::volume_capability::AccessType;
use twinshore_csi_proto::csi::volume_capability::access_mode::Mode;
use twinshore_protocol::claims::AccessMode;

use crate::error::CallError;

/// How a volume is to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// By whom at a time.
    pub mode: AccessMode,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Options of the pod's mount.
    pub flags: MountFlags,
    /// The group that may use it (`fsGroup` of the pod).
    pub group: Option<u32>,
}

impl Usage {
    /// The group that the directory is given to. A use that may not write changes nothing.
    pub fn new_group(&self) -> Option<u32> {
        self.group.filter(|_| !self.read_only)
    }
}

/// Reads one.
pub fn parse(capability: Option<&VolumeCapability>) -> Result<Usage, CallError> {
    let capability =
        capability.ok_or_else(|| CallError::Invalid("the volume capability is missing".to_owned()))?;
    let mount = match &capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => {
            return Err(CallError::Invalid(
                "this is a file system: there are no block devices (volumeMode: Filesystem)".to_owned(),
            ));
        }
        None => return Err(CallError::Invalid("the access type is missing".to_owned())),
    };
    if !matches!(mount.fs_type.as_str(), "" | "twinshore") {
        return Err(CallError::Invalid(format!(
            "there is no file system to choose: leave fsType out (found {})",
            mount.fs_type
        )));
    }
    let mode = capability
        .access_mode
        .as_ref()
        .and_then(|mode| Mode::try_from(mode.mode).ok())
        .unwrap_or(Mode::Unknown);
    let (mode, mut read_only) = match mode {
        Mode::SingleNodeSingleWriter => (AccessMode::SinglePod, false),
        Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter => (AccessMode::SingleNode, false),
        Mode::SingleNodeReaderOnly => (AccessMode::SingleNode, true),
        Mode::MultiNodeReaderOnly => (AccessMode::ReadOnly, true),
        Mode::MultiNodeMultiWriter => (AccessMode::ReadWrite, false),
        Mode::MultiNodeSingleWriter => {
            return Err(CallError::Invalid(
                "one node that writes beside others that read is not possible: choose ReadWriteMany or ReadWriteOnce"
                    .to_owned(),
            ));
        }
        Mode::Unknown => return Err(CallError::Invalid("the access mode is missing".to_owned())),
    };
    let mut flags = MountFlags::empty();
    for option in &mount.mount_flags {
        match option.as_str() {
            // As it is, and always so.
            "rw" | "nosuid" | "nodev" => {}
            "ro" => read_only = true,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "noexec" => flags |= MountFlags::NOEXEC,
            unknown => {
                return Err(CallError::Invalid(format!(
                    "the mount option {unknown} does not exist: ro, rw, noatime, nodiratime, relatime, noexec, nosuid, nodev do"
                )));
            }
        }
    }
    let group =
        match mount.volume_mount_group.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                CallError::Invalid(format!("the group of the mount, {text}, is not a number"))
            })?),
        };
    Ok(Usage {
        mode,
        read_only,
        flags,
        group,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use twinshore_csi_proto::csi::volume_capability::{AccessMode as Wire, BlockVolume, MountVolume};

    use super::*;

    fn capability(mode: Mode, flags: &[&str], group: &str) -> VolumeCapability {
        VolumeCapability {
            access_mode: Some(Wire { mode: mode.into() }),
            access_type: Some(AccessType::Mount(MountVolume {
                fs_type: String::new(),
                mount_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
                volume_mount_group: group.to_owned(),
            })),
        }
    }

    #[test]
    fn every_access_mode_of_kubernetes_has_one_of_ours() {
        for (mode, ours, read_only) in [
            (Mode::SingleNodeSingleWriter, AccessMode::SinglePod, false),
            (Mode::SingleNodeWriter, AccessMode::SingleNode, false),
            (Mode::SingleNodeMultiWriter, AccessMode::SingleNode, false),
            (Mode::SingleNodeReaderOnly, AccessMode::SingleNode, true),
            (Mode::MultiNodeReaderOnly, AccessMode::ReadOnly, true),
            (Mode::MultiNodeMultiWriter, AccessMode::ReadWrite, false),
        ] {
            let usage = parse(Some(&capability(mode, &[], ""))).unwrap();
            assert_eq!((usage.mode, usage.read_only), (ours, read_only));
        }
        for mode in [Mode::Unknown, Mode::MultiNodeSingleWriter] {
            assert!(parse(Some(&capability(mode, &[], ""))).is_err());
        }
    }

    #[test]
    fn mount_options_are_known_or_refused() {
        let usage = parse(Some(&capability(
            Mode::MultiNodeMultiWriter,
            &["ro", "noexec"],
            "7",
        )))
        .unwrap();
        assert!(usage.read_only && usage.flags == MountFlags::NOEXEC && usage.group == Some(7));
        assert_eq!(usage.new_group(), None);
        assert!(parse(Some(&capability(Mode::MultiNodeMultiWriter, &["suid"], ""))).is_err());
        assert!(parse(Some(&capability(Mode::MultiNodeMultiWriter, &[], "staff"))).is_err());
    }

    #[test]
    fn what_is_missing_or_a_block_device_is_refused() {
        assert!(parse(None).is_err());
        let mut block = capability(Mode::MultiNodeMultiWriter, &[], "");
        block.access_type = Some(AccessType::Block(BlockVolume {}));
        assert!(parse(Some(&block)).is_err());
    }
}
