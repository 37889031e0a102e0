//! A link of a network namespace whose other end is this process.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::thread;

use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::failure::Failure;
use crate::network::namespace_file;

/// Where tunnels are asked for.
const DEVICE: &str = "/dev/net/tun";

/// `TUNSETIFF` of `linux/if_tun.h`.
const SET_INTERFACE: Opcode = 0x4004_54ca;

/// `IFF_TUN | IFF_NO_PI`: packets as they are, without a header before them.
const FLAGS: u16 = 0x0001 | 0x1000;

/// `struct ifreq`, 40 bytes, with the flags in its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    padding: [u8; 22],
}

/// Whether this machine has tunnels.
pub fn check() -> Result<(), Failure> {
    match File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Missing {
            what: format!("{DEVICE} cannot be opened ({error})"),
            remedy: "be root on a kernel with CONFIG_TUN (`modprobe tun`)".to_owned(),
        }),
    }
}

/// Makes the link `link` in a network namespace. It is there as long as the file is open.
pub fn open(namespace: &str, link: &str) -> Result<File, Failure> {
    // A thread can go to another network namespace without the rest of the process. It ends there.
    thread::scope(|scope| {
        scope
            .spawn(|| open_in(namespace, link))
            .join()
            .unwrap_or_else(|_| Err(Failure::Thread(format!("open a tunnel in {namespace}"))))
    })
}

fn open_in(namespace: &str, link: &str) -> Result<File, Failure> {
    let path = namespace_file(namespace);
    let target = File::open(&path).map_err(Failure::file("open", &path))?;
    move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(Failure::system(format!("enter the network {namespace}")))?;
    let device = File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(Failure::io(format!("open {DEVICE}")))?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: FLAGS,
        padding: [0; 22],
    };
    for (to, from) in request.name.iter_mut().take(15).zip(link.bytes()) {
        *to = from;
    }
    // SAFETY: the opcode is that of `TUNSETIFF`, which reads a `struct ifreq` through the pointer and changes only that; `InterfaceRequest` has
    // its size and layout.
    #[allow(unsafe_code)]
    let result = unsafe { ioctl(&device, Setter::<SET_INTERFACE, InterfaceRequest>::new(request)) };
    result.map_err(Failure::system(format!("make the link {link} in {namespace}")))?;
    Ok(device)
}
