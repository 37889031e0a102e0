//! The node service. Every call can be repeated, and finds out from the kernel's table of mounts what was done already.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tonic::{Request, Response, Status};
use twinshore_csi_proto::csi;
use twinshore_csi_proto::csi::node_server::Node as Service;
use twinshore_csi_proto::csi::node_service_capability::rpc::Type as Rpc;
use twinshore_csi_proto::csi::node_service_capability::{Rpc as Capability, Type};
use twinshore_csi_proto::csi::volume_usage::Unit;

use super::access::{Access, target_name};
use super::mounting;
use super::paths::{Paths, check_volume_id};
use super::records::{self, Record};
use super::table;
use super::volumes::Volumes;
use crate::attributes::Attributes;
use crate::capability::{self, Usage};
use crate::error::CallError;
use crate::limited::{LOOK_LIMIT, MOUNT_LIMIT, call};
use crate::locks::Locks;

/// The permissions of the directories that things are mounted on.
const MOUNT_POINT_MODE: u32 = 0o750;

/// The node service.
pub struct Node {
    /// Where things are.
    pub paths: Paths,
    /// The mounts.
    pub volumes: Arc<Volumes>,
    /// Who uses what.
    pub access: Access,
    /// One call about a volume's staging at a time.
    pub staging: Locks,
    /// One call about a target at a time.
    pub targets: Locks,
}

impl Node {
    /// Mounts a volume and looks whether its directory is there. Nothing is bound to the staging path: to the kubelet every mount of the same
    /// directory is a use of what is staged, and two that are staged, of one directory, would wait for each other for ever.
    async fn stage(&self, volume_id: &str, attributes: &Attributes, usage: &Usage) -> Result<(), CallError> {
        let record = Record {
            volume_id: volume_id.to_owned(),
            attributes: attributes.clone(),
        };
        records::write(&self.paths, &record)?;
        self.with_directory(attributes, usage, |_| Ok(())).await
    }

    /// Binds a volume's directory to a pod's target.
    async fn bind(&self, attributes: &Attributes, target: PathBuf, usage: &Usage) -> Result<(), CallError> {
        let (read_only, flags) = (usage.read_only, usage.flags);
        self.with_directory(attributes, usage, move |directory| {
            if let Some(there) = table::find(&target)?
                && there.read_only == read_only
                && mounting::shows(&target, directory)?
            {
                return Ok(());
            }
            mounting::unmount_all(&target)?;
            mounting::make_directory(&target, MOUNT_POINT_MODE)?;
            mounting::bind(directory, &target, read_only, flags)
        })
        .await
    }

    /// Does something with the directory of a volume, mounted and given to the group of who uses it.
    async fn with_directory(
        &self,
        attributes: &Attributes,
        usage: &Usage,
        body: impl FnOnce(&OwnedFd) -> io::Result<()> + Send + 'static,
    ) -> Result<(), CallError> {
        let key = attributes.volume()?;
        let directory = attributes.directory()?;
        let group = usage.new_group();
        let what = match &directory {
            Some(directory) => format!("use directory {directory} of {key}"),
            None => format!("use {key}"),
        };
        let (mounted, _turn) = self.volumes.ensure(&key).await?;
        let done = call(what.clone(), MOUNT_LIMIT, move || {
            let opened = mounting::open_directory(&mounted, directory.as_ref())?;
            if let Some(group) = group {
                mounting::give_to_group(&opened, group)?;
            }
            body(&opened)
        });
        done.await.map_err(|error| match error {
            CallError::System { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                CallError::NotFound(format!("cannot {what}: it does not exist"))
            }
            other => other,
        })
    }

    async fn publish(&self, request: csi::NodePublishVolumeRequest) -> Result<(), CallError> {
        check_volume_id(&request.volume_id)?;
        let mut usage = capability::parse(request.volume_capability.as_ref())?;
        usage.read_only |= request.readonly;
        let target = self.paths.check("target path", &request.target_path)?;
        if request.staging_target_path.is_empty() {
            return Err(CallError::Precondition(
                "the staging target path is missing".to_owned(),
            ));
        }
        let attributes = Attributes::from_context(&request.volume_context)?;
        let key = attributes.volume()?;
        let _held = self.targets.take(&target_name(&target))?;
        // Also when it is staged already: its process may have gone since. Access counts while there is a mount.
        self.stage(&request.volume_id, &attributes, &usage).await?;
        self.access.take(&key, &attributes, &target, usage.mode).await?;
        let bound = self.bind(&attributes, target.clone(), &usage).await;
        if bound.is_err() {
            self.access.give_back(&key, &target).await;
        }
        bound
    }

    async fn unpublish(&self, request: csi::NodeUnpublishVolumeRequest) -> Result<(), CallError> {
        check_volume_id(&request.volume_id)?;
        let target = self.paths.check("target path", &request.target_path)?;
        let _held = self.targets.take(&target_name(&target))?;
        remove_mount(&target).await?;
        if let Some(record) = records::read(&self.paths, &request.volume_id)? {
            self.access.give_back(&record.attributes.volume()?, &target).await;
        }
        Ok(())
    }

    async fn unstage(&self, request: csi::NodeUnstageVolumeRequest) -> Result<(), CallError> {
        check_volume_id(&request.volume_id)?;
        self.paths
            .check("staging target path", &request.staging_target_path)?;
        let _held = self.staging.take(&request.volume_id)?;
        if let Some(record) = records::read(&self.paths, &request.volume_id)? {
            let key = record.attributes.volume()?;
            self.volumes.give_up(&key).await?;
            if !self.access.owes(&key) {
                records::remove(&self.paths, &request.volume_id)?;
            }
        }
        Ok(())
    }

    async fn statistics(
        &self,
        request: csi::NodeGetVolumeStatsRequest,
    ) -> Result<csi::NodeGetVolumeStatsResponse, CallError> {
        check_volume_id(&request.volume_id)?;
        if request.volume_path.is_empty() {
            return Err(CallError::Invalid("the volume path is missing".to_owned()));
        }
        let elsewhere = || {
            CallError::NotFound(format!(
                "volume {} is not mounted at {}",
                request.volume_id, request.volume_path
            ))
        };
        // Nothing of ours is mounted where nothing may be.
        let path = self
            .paths
            .check("volume path", &request.volume_path)
            .map_err(|_| elsewhere())?;
        let is_staged = records::read(&self.paths, &request.volume_id)?.is_some();
        let mounted = table::find(&path).map_err(CallError::system("read the table of mounts"))?;
        if !is_staged || !mounted.is_some_and(|mounted| mounted.is_ours()) {
            return Err(elsewhere());
        }
        let asked = call(
            format!("ask the mount at {}", path.display()),
            LOOK_LIMIT,
            move || Ok(rustix::fs::statvfs(&path)?),
        );
        let (usage, condition) = match asked.await {
            Ok(found) => (usage_of(&found), Ok(())),
            // A condition, not a failure of the call: it is what is known of the volume.
            Err(error @ (CallError::System { .. } | CallError::Slow(_))) => {
                (Vec::new(), Err(crate::error::with_causes(&error)))
            }
            Err(error) => return Err(error),
        };
        Ok(csi::NodeGetVolumeStatsResponse {
            usage,
            volume_condition: Some(csi::VolumeCondition {
                abnormal: condition.is_err(),
                message: condition.err().unwrap_or_else(|| "the mount answers".to_owned()),
            }),
        })
    }
}

async fn remove_mount(path: &Path) -> Result<(), CallError> {
    let place = path.to_owned();
    call(format!("unmount {}", path.display()), MOUNT_LIMIT, move || {
        mounting::unmount_all(&place)?;
        mounting::remove_directory(&place)
    })
    .await
}

#[allow(clippy::cast_possible_wrap)] // No file system has 2^63 bytes.
fn usage_of(found: &rustix::fs::StatVfs) -> Vec<csi::VolumeUsage> {
    let usage = |unit: Unit, total: u64, free: u64, available: u64| csi::VolumeUsage {
        available: available as i64,
        total: total as i64,
        used: total.saturating_sub(free) as i64,
        unit: unit.into(),
    };
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    vec![
        usage(
            Unit::Bytes,
            bytes(found.f_blocks),
            bytes(found.f_bfree),
            bytes(found.f_bavail),
        ),
        usage(Unit::Inodes, found.f_files, found.f_ffree, found.f_favail),
    ]
}

#[tonic::async_trait]
impl Service for Node {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        check_volume_id(&request.volume_id)?;
        let usage = capability::parse(request.volume_capability.as_ref())?;
        self.paths
            .check("staging target path", &request.staging_target_path)?;
        let attributes = Attributes::from_context(&request.volume_context)?;
        let _held = self.staging.take(&request.volume_id)?;
        self.stage(&request.volume_id, &attributes, &usage).await?;
        tracing::info!(volume = request.volume_id, "staged");
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = request.volume_id.clone();
        self.unstage(request).await?;
        tracing::info!(volume, "unstaged");
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let (volume, target) = (request.volume_id.clone(), request.target_path.clone());
        self.publish(request).await?;
        tracing::info!(volume, target, "published");
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let (volume, target) = (request.volume_id.clone(), request.target_path.clone());
        self.unpublish(request).await?;
        tracing::info!(volume, target, "unpublished");
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        Ok(Response::new(self.statistics(request.into_inner()).await?))
    }

    async fn node_expand_volume(
        &self,
        _: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented(
            "a volume grows in the metadata service, not on a node",
        ))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let types = [
            Rpc::StageUnstageVolume,
            Rpc::GetVolumeStats,
            Rpc::VolumeCondition,
            Rpc::SingleNodeMultiWriter,
            Rpc::VolumeMountGroup,
        ];
        Ok(Response::new(csi::NodeGetCapabilitiesResponse {
            capabilities: types
                .into_iter()
                .map(|rpc| csi::NodeServiceCapability {
                    r#type: Some(Type::Rpc(Capability { r#type: rpc.into() })),
                })
                .collect(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: self.volumes.node().to_owned(),
            max_volumes_per_node: 0,
            accessible_topology: None,
        }))
    }
}
