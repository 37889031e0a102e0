//! Extended attributes and ACLs.

use super::*;
use twinshore_protocol::operation::SetMode;

fn set(
    world: &mut World,
    caller: &Caller,
    inode: InodeNumber,
    text: &str,
    value: &[u8],
    mode: SetMode,
) -> Result<(), Errno> {
    let (name, value) = (
        Bytes::copy_from_slice(text.as_bytes()),
        Bytes::copy_from_slice(value),
    );
    world
        .run_as(
            caller,
            &Operation::SetExtendedAttribute {
                inode,
                name,
                value,
                mode,
            },
        )
        .map(|_| ())
}

fn get(world: &mut World, caller: &Caller, inode: InodeNumber, text: &str) -> Result<Bytes, Errno> {
    let name = Bytes::copy_from_slice(text.as_bytes());
    match world.run_as(caller, &Operation::GetExtendedAttribute { inode, name })? {
        Reply::Bytes(bytes) => Ok(bytes),
        other => panic!("{other:?}"),
    }
}

/// The value of an ACL attribute: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const NONE: u32 = u32::MAX;
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

#[test]
fn attributes_are_set_read_listed_and_removed() {
    let mut world = World::new();
    let root = Caller::ROOT;
    let file = world.create(ROOT, "file");
    assert_eq!(get(&mut world, &root, file, "user.a"), Err(Errno::NoData));
    assert_eq!(
        set(&mut world, &root, file, "user.a", b"1", SetMode::Replace),
        Err(Errno::NoData)
    );
    assert_eq!(
        set(&mut world, &root, file, "user.a", b"1", SetMode::Create),
        Ok(())
    );
    assert_eq!(
        set(&mut world, &root, file, "user.a", b"2", SetMode::Create),
        Err(Errno::Exists)
    );
    assert_eq!(set(&mut world, &root, file, "user.a", b"", SetMode::Any), Ok(()));
    assert_eq!(get(&mut world, &root, file, "user.a"), Ok(Bytes::new()));
    set(&mut world, &root, file, "trusted.b", b"x", SetMode::Any).unwrap();
    let list = |world: &mut World, caller: &Caller| {
        let Reply::Names(names) = world
            .run_as(caller, &Operation::ListExtendedAttributes { inode: file })
            .unwrap()
        else {
            panic!()
        };
        names
            .into_iter()
            .map(|name| String::from_utf8(name.0.to_vec()).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&mut world, &root), ["trusted.b", "user.a"]);
    assert_eq!(list(&mut world, &user(5)), ["user.a"]);
    let remove = Operation::RemoveExtendedAttribute {
        inode: file,
        name: Bytes::from_static(b"user.a"),
    };
    assert_eq!(world.run(&remove), Ok(Reply::Done));
    assert_eq!(world.run(&remove), Err(Errno::NoData));
}

#[test]
fn each_namespace_has_its_rules() {
    type Case<'a> = (Caller, InodeNumber, &'a str, &'a [u8], Result<(), Errno>);
    let mut world = World::new();
    let file = world.create_as(&Caller::ROOT, ROOT, "file", 0o666).unwrap().inode;
    let fifo = Operation::MakeNode {
        parent: ROOT,
        name: name("fifo"),
        new: NewInode {
            inode: world.new_inode(),
            mode: 0o666,
            umask: 0,
        },
        kind: FileType::Fifo,
        device: 0,
    };
    let fifo = entry(world.run(&fifo).unwrap()).inode;
    let sticky = world.mkdir_as(&Caller::ROOT, ROOT, "tmp", 0o1777).unwrap().inode;
    let long = format!("user.{}", "x".repeat(251));
    let big = vec![0; (64 << 10) + 1];
    let cases: &[Case<'_>] = &[
        (Caller::ROOT, file, "other.x", b"", Err(Errno::NotSupported)),
        (Caller::ROOT, file, "user.", b"", Err(Errno::Invalid)),
        (Caller::ROOT, file, "", b"", Err(Errno::OutOfRange)),
        (Caller::ROOT, file, &long, b"", Err(Errno::OutOfRange)),
        (Caller::ROOT, file, &long[..255], b"", Ok(())),
        (Caller::ROOT, file, "user.big", &big, Err(Errno::TooBig)),
        (Caller::ROOT, file, "user.big", &big[1..], Ok(())),
        (Caller::ROOT, fifo, "user.x", b"", Err(Errno::NotPermitted)),
        (Caller::ROOT, fifo, "trusted.x", b"", Ok(())),
        (user(5), file, "trusted.x", b"", Err(Errno::NotPermitted)),
        (user(5), file, "security.x", b"", Err(Errno::NotPermitted)),
        (user(5), sticky, "user.x", b"", Err(Errno::NotPermitted)),
        (user(5), ROOT, "user.x", b"", Err(Errno::AccessDenied)),
        (user(5), file, ACCESS, b"", Err(Errno::NotPermitted)),
        (
            Caller::ROOT,
            file,
            DEFAULT,
            &acl(&[(1, 7, NONE), (4, 5, NONE), (32, 0, NONE)]),
            Err(Errno::AccessDenied),
        ),
        (
            Caller::ROOT,
            file,
            ACCESS,
            &[1, 0, 0, 0],
            Err(Errno::NotSupported),
        ),
        (
            Caller::ROOT,
            file,
            ACCESS,
            &acl(&[(1, 7, NONE)]),
            Err(Errno::Invalid),
        ),
        (
            Caller::ROOT,
            file,
            ACCESS,
            &acl(&[(1, 7, NONE), (2, 7, 5), (4, 5, NONE), (32, 0, NONE)]),
            Err(Errno::Invalid),
        ),
        (
            Caller::ROOT,
            file,
            ACCESS,
            &acl(&[(4, 7, NONE), (1, 5, NONE), (32, 0, NONE)]),
            Err(Errno::Invalid),
        ),
    ];
    for (caller, inode, text, value, expected) in cases {
        assert_eq!(
            set(&mut world, caller, *inode, text, value, SetMode::Any),
            *expected,
            "{text} by {}",
            caller.user
        );
    }
    set(&mut world, &Caller::ROOT, file, "trusted.x", b"", SetMode::Any).unwrap();
    assert_eq!(get(&mut world, &user(5), file, "trusted.x"), Err(Errno::NoData));
}

#[test]
fn capabilities_go_with_the_first_foreign_write() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    set(
        &mut world,
        &Caller::ROOT,
        file,
        "security.capability",
        b"caps",
        SetMode::Any,
    )
    .unwrap();
    world.write_inline(file, 0, b"by root").unwrap();
    assert!(get(&mut world, &Caller::ROOT, file, "security.capability").is_ok());
    let changes = AttributeChanges {
        size_bytes: Some(0),
        ..AttributeChanges::default()
    };
    world.set(&user(5), file, changes).unwrap();
    assert_eq!(
        get(&mut world, &Caller::ROOT, file, "security.capability"),
        Err(Errno::NoData)
    );
}

#[test]
fn an_acl_and_the_mode_are_one() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    let extended = acl(&[
        (1, 6, NONE),
        (2, 7, 5),
        (4, 4, NONE),
        (16, 5, NONE),
        (32, 0, NONE),
    ]);
    set(&mut world, &Caller::ROOT, file, ACCESS, &extended, SetMode::Any).unwrap();
    assert_eq!(world.stat(file).mode, 0o650, "the group's bits are the mask");
    let changes = AttributeChanges {
        mode: Some(0o741),
        ..AttributeChanges::default()
    };
    world.set(&Caller::ROOT, file, changes).unwrap();
    let masked = acl(&[
        (1, 7, NONE),
        (2, 7, 5),
        (4, 4, NONE),
        (16, 4, NONE),
        (32, 1, NONE),
    ]);
    assert_eq!(get(&mut world, &Caller::ROOT, file, ACCESS).unwrap(), masked);
    let plain = acl(&[(1, 6, NONE), (4, 4, NONE), (32, 4, NONE)]);
    set(&mut world, &Caller::ROOT, file, ACCESS, &plain, SetMode::Any).unwrap();
    assert_eq!(world.stat(file).mode, 0o644);
    assert_eq!(
        get(&mut world, &Caller::ROOT, file, ACCESS),
        Err(Errno::NoData),
        "a mode says it all"
    );
}

#[test]
fn an_acl_grants_and_masks() {
    let mut world = World::new();
    let directory = world.mkdir_as(&Caller::ROOT, ROOT, "dir", 0o700).unwrap().inode;
    let list = |mask| {
        acl(&[
            (1, 7, NONE),
            (2, 7, 5),
            (4, 0, NONE),
            (8, 7, 50),
            (16, mask, NONE),
            (32, 7, NONE),
        ])
    };
    let member = Caller {
        user: 9,
        group: 9,
        groups: vec![50],
        ..Caller::ROOT
    };
    for (mask, expected) in [(7, Ok(())), (5, Err(Errno::AccessDenied))] {
        set(
            &mut world,
            &Caller::ROOT,
            directory,
            ACCESS,
            &list(mask),
            SetMode::Any,
        )
        .unwrap();
        for caller in [user(5), member.clone()] {
            let text = format!("{mask}-{}", caller.user);
            assert_eq!(
                world.create_as(&caller, directory, &text, 0o644).map(|_| ()),
                expected,
                "{text}"
            );
        }
        assert!(
            world
                .create_as(&user(8), directory, &format!("other{mask}"), 0o644)
                .is_ok()
        );
    }
    let of_owning_group = Caller {
        user: 8,
        group: 0,
        groups: Vec::new(),
        ..Caller::ROOT
    };
    assert_eq!(
        world.create_as(&of_owning_group, directory, "x", 0o644),
        Err(Errno::AccessDenied)
    );
}

#[test]
fn a_default_acl_is_inherited_in_place_of_the_umask() {
    let mut world = World::new();
    let directory = world.mkdir(ROOT, "dir");
    let default = acl(&[
        (1, 7, NONE),
        (2, 7, 5),
        (4, 5, NONE),
        (16, 7, NONE),
        (32, 5, NONE),
    ]);
    set(
        &mut world,
        &Caller::ROOT,
        directory,
        DEFAULT,
        &default,
        SetMode::Any,
    )
    .unwrap();
    let file = world.create_as(&Caller::ROOT, directory, "file", 0o664).unwrap();
    assert_eq!(file.mode, 0o664, "the umask of 022 does not count");
    let inherited = acl(&[
        (1, 6, NONE),
        (2, 7, 5),
        (4, 5, NONE),
        (16, 6, NONE),
        (32, 4, NONE),
    ]);
    assert_eq!(
        get(&mut world, &Caller::ROOT, file.inode, ACCESS).unwrap(),
        inherited
    );
    let below = world.mkdir(directory, "below");
    assert_eq!(get(&mut world, &Caller::ROOT, below, DEFAULT).unwrap(), default);
    set(&mut world, &Caller::ROOT, directory, DEFAULT, b"", SetMode::Any).unwrap();
    assert_eq!(
        world
            .create_as(&Caller::ROOT, directory, "plain", 0o666)
            .unwrap()
            .mode,
        0o644
    );
}
