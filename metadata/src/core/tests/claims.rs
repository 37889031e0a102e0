//! Claims on directories, and who has access to them.

use twinshore_protocol::claims::{
    AccessHold, AccessMode, AccessTo, Claim, ClaimDisplay, ClaimKey, ClaimRequest, ClaimsPage, CopySource,
    DirectoryPath, HoldsPage, Label, NewDirectory, NodeName, Refused,
};

use super::*;

pub fn key(text: &str) -> ClaimKey {
    text.parse().unwrap()
}

pub fn path(text: &str) -> DirectoryPath {
    text.parse().unwrap()
}

pub fn request(claim: &str, directory: &str, capacity_bytes: u64) -> ClaimRequest {
    ClaimRequest {
        key: key(claim),
        display: ClaimDisplay {
            namespace: "team".into(),
            name: "data".into(),
        },
        path: path(directory),
        capacity_bytes,
        source: None,
        new: NewDirectory::default(),
    }
}

/// What an operation on claims answers.
pub fn ask(world: &mut World, operation: &Operation) -> Result<Reply, Refused> {
    match world.run(operation).unwrap() {
        Reply::Refused(refused) => Err(*refused),
        reply => Ok(reply),
    }
}

pub fn claim_with(world: &mut World, request: ClaimRequest) -> Result<Claim, Refused> {
    match ask(world, &Operation::ClaimDirectory(Box::new(request)))? {
        Reply::Claim(claim) => Ok(*claim),
        other => panic!("{other:?}"),
    }
}

pub fn claim(world: &mut World, claim: &str, directory: &str, bytes: u64) -> Result<Claim, Refused> {
    claim_with(world, request(claim, directory, bytes))
}

pub fn get(world: &mut World, claim: &str) -> Result<Claim, Refused> {
    match ask(world, &Operation::GetClaim { key: key(claim) })? {
        Reply::Claim(claim) => Ok(*claim),
        other => panic!("{other:?}"),
    }
}

pub fn release(world: &mut World, claim: &str) -> Result<(), Refused> {
    ask(world, &Operation::ReleaseClaim { key: key(claim) }).map(|reply| assert_eq!(reply, Reply::Done))
}

fn list(world: &mut World, region: Option<&str>, from: Option<ClaimKey>, limit: u32) -> ClaimsPage {
    let region = region.map(|region| Label::new(region).unwrap());
    match ask(world, &Operation::ListClaims { region, from, limit }) {
        Ok(Reply::Claims(page)) => page,
        other => panic!("{other:?}"),
    }
}

fn trash(world: &mut World) -> Vec<(InodeNumber, u64)> {
    let (after, limit) = (None, 100);
    match world.run(&Operation::ListTrash { after, limit }) {
        Ok(Reply::Trash(items)) => items.iter().map(|item| (item.inode, item.size_bytes)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claim_makes_its_directory_limits_it_and_is_answered_the_same_when_repeated() {
    let mut world = World::new();
    let made = claim(&mut world, "east/pvc-1", "/team/data", 4096).unwrap();
    assert_eq!(
        (
            made.capacity_bytes,
            made.used_bytes,
            made.used_inodes,
            made.others,
            made.ready
        ),
        (4096, 0, 1, 0, true)
    );
    let team = world.lookup(ROOT, "team").unwrap();
    assert_eq!(world.lookup(team, "data"), Ok(made.directory));
    assert_eq!(world.stat(team).mode, 0o755);
    assert_eq!(world.stat(made.directory).mode, 0o777);
    assert_eq!(
        claim(&mut world, "east/pvc-1", "team/data", 4096),
        Ok(made.clone())
    );

    let file = world.create(made.directory, "file");
    world.write_inline(file, 0, &[1; 1000]).unwrap();
    let now = get(&mut world, "east/pvc-1").unwrap();
    assert_eq!((now.used_bytes, now.used_inodes), (1000, 2));
    assert_eq!(
        world.write_inline(file, 1000, &[1; 4000]),
        Err(Errno::QuotaExceeded)
    );
    assert_eq!(
        world.run_as(
            &user(5),
            &Operation::GetClaim {
                key: key("east/pvc-1")
            }
        ),
        Err(Errno::NotPermitted)
    );
}

#[test]
fn the_same_claim_of_two_clusters_is_one_directory_and_other_sizes_are_refused() {
    let mut world = World::new();
    let east = claim(&mut world, "east/pvc-1", "/team/data", 4096).unwrap();
    assert_eq!(
        claim(&mut world, "west/pvc-9", "/team/data", 8192),
        Err(Refused::OtherSize {
            path: path("/team/data"),
            stands_bytes: 4096,
            asked_bytes: 8192
        })
    );
    let west = claim(&mut world, "west/pvc-9", "/team/data", 4096).unwrap();
    assert_eq!((west.directory, west.others), (east.directory, 1));

    // A claim grows for all; it never shrinks; what was asked once can still be asked.
    let resize = |world: &mut World, claim: &str, capacity_bytes| {
        let key = key(claim);
        match ask(world, &Operation::ResizeClaim { key, capacity_bytes }) {
            Ok(Reply::Claim(claim)) => claim.capacity_bytes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(resize(&mut world, "west/pvc-9", 10_000), 10_000);
    assert_eq!(resize(&mut world, "east/pvc-1", 5_000), 10_000);
    assert_eq!(get(&mut world, "east/pvc-1").unwrap().capacity_bytes, 10_000);
    assert!(claim(&mut world, "east/pvc-1", "/team/data", 4096).is_ok());
    assert!(claim(&mut world, "east/pvc-1", "/team/data", 10_000).is_ok());
    let wrong = claim(&mut world, "east/pvc-1", "/team/data", 5_000).unwrap_err();
    assert!(
        matches!(&wrong, Refused::Differs { what, .. } if what == "size in bytes"),
        "{wrong}"
    );
    let wrong = claim(&mut world, "east/pvc-1", "/team/other", 4096).unwrap_err();
    assert!(
        matches!(&wrong, Refused::Differs { what, .. } if what == "directory"),
        "{wrong}"
    );
    assert_eq!(
        get(&mut world, "west/nothing"),
        Err(Refused::UnknownClaim(key("west/nothing")))
    );
}

#[test]
fn what_was_sent_to_the_trash_whole_is_not_delegated() {
    let mut world = World::with_trash();
    let made = claim(&mut world, "east/pvc-1", "/team/data", 0).unwrap();
    let inner = world.mkdir(made.directory, "inner");
    assert!(crate::core::has_room(&world.view, inner, 1).unwrap());
    release(&mut world, "east/pvc-1").unwrap();
    assert!(!crate::core::has_room(&world.view, inner, 1).unwrap());
}

#[test]
fn a_claimed_directory_stays_where_it_is_until_the_last_claim_is_released() {
    let mut world = World::with_trash();
    let made = claim(&mut world, "east/pvc-1", "/team/data", 0).unwrap();
    claim(&mut world, "west/pvc-9", "/team/data", 0).unwrap();
    let team = world.lookup(ROOT, "team").unwrap();
    let free = world.mkdir(ROOT, "free");
    assert_eq!(world.rmdir(team, "data"), Err(Errno::Busy));
    for (parent, from) in [(team, "data"), (ROOT, "team")] {
        let moved = world.rename((parent, from), (free, "elsewhere"), RenameMode::Replace);
        assert_eq!(moved.err(), Some(Errno::Busy), "{from}");
        let exchanged = world.rename((parent, from), (ROOT, "free"), RenameMode::Exchange);
        assert_eq!(exchanged.err(), Some(Errno::Busy), "{from}");
    }
    let inner = world.mkdir(made.directory, "inner");
    let file = world.create(inner, "file");
    world.write_object(file, 0, b"content", Sides::BOTH).unwrap();
    world.link(file, made.directory, "other").unwrap();

    release(&mut world, "east/pvc-1").unwrap();
    assert_eq!(world.lookup(team, "data"), Ok(made.directory));
    release(&mut world, "west/pvc-9").unwrap();
    release(&mut world, "west/pvc-9").unwrap();
    assert_eq!(world.lookup(team, "data"), Err(Errno::NotFound));
    assert_eq!(trash(&mut world), [(made.directory, 7)]);
    assert_eq!(world.usage(ROOT).0, 0, "the trash counts apart");
    assert_eq!(crate::core::volume::trash(&world.view).unwrap().used_bytes, 7);

    // It comes back whole, and can be claimed again.
    let restore = Operation::RestoreTrash {
        inode: made.directory,
        to: None,
    };
    entry(world.run(&restore).unwrap());
    assert_eq!(world.run(&restore), Err(Errno::NotFound));
    let again = claim(&mut world, "east/pvc-2", "/team/data", 0).unwrap();
    assert_eq!((again.directory, again.used_bytes), (made.directory, 7));
    assert_eq!(world.content(file), b"content");

    // In the end it goes, piece by piece, and its objects with it.
    release(&mut world, "east/pvc-2").unwrap();
    world.now = world.now.plus_seconds(2 * 86_400);
    world.clean_up(1);
    assert_eq!(trash(&mut world), []);
    assert_eq!(world.try_stat(file), Err(Errno::Stale));
    assert_eq!(crate::core::volume::totals(&world.view).unwrap().objects.count, 0);
    assert_eq!(crate::core::volume::trash(&world.view).unwrap().used_inodes, 0);
}

#[test]
fn a_removed_tree_is_taken_apart_although_files_of_it_are_open_or_named_elsewhere() {
    let mut world = World::new();
    let made = claim(&mut world, "east/pvc-1", "/data", 0).unwrap();
    let (open, kept) = (
        world.create(made.directory, "open"),
        world.create(made.directory, "kept"),
    );
    world.write_inline(open, 0, b"o").unwrap();
    world.link(kept, ROOT, "kept").unwrap();
    world.open.insert(open);
    release(&mut world, "east/pvc-1").unwrap();
    world.clean_up(2);
    assert_eq!(world.stat(kept).links, 1);
    assert_eq!(world.content(open), b"o");
    world.open.clear();
    world.clean_up(2);
    assert_eq!(world.try_stat(open), Err(Errno::Stale));
    assert_eq!(
        world.usage(ROOT).1,
        3,
        "the root, what is hidden, and the file that was kept"
    );
}

#[test]
fn claims_neither_lie_within_each_other_nor_replace_files() {
    let mut world = World::new();
    claim(&mut world, "east/pvc-1", "/a/b", 0).unwrap();
    for wrong in ["/a", "/a/b/c", "/a/b/c/d"] {
        let refused = claim(&mut world, "east/pvc-2", wrong, 0).unwrap_err();
        assert_eq!(
            refused,
            Refused::Nested {
                path: path(wrong),
                other: "/a/b".into()
            }
        );
    }
    claim(&mut world, "east/pvc-3", "/a/bc", 0).unwrap();
    world.create(ROOT, "file");
    for wrong in ["/file", "/file/x"] {
        assert_eq!(
            claim(&mut world, "east/pvc-4", wrong, 0),
            Err(Refused::NotADirectory(path(wrong)))
        );
    }
    // What exists is found, with what is in it.
    let directory = world.mkdir(ROOT, "old");
    world.create(directory, "file");
    let found = claim(&mut world, "east/pvc-5", "/old", 1).unwrap();
    assert_eq!((found.directory, found.used_inodes), (directory, 2));
}

#[test]
fn claims_are_listed_in_pages() {
    let mut world = World::new();
    for text in ["east/b", "east/a", "west/a", "east2/a"] {
        claim(&mut world, text, &format!("/{text}"), 0).unwrap();
    }
    let keys = |page: &ClaimsPage| {
        page.claims
            .iter()
            .map(|claim| claim.key.to_string())
            .collect::<Vec<_>>()
    };
    let first = list(&mut world, None, None, 3);
    assert_eq!(keys(&first), ["east/a", "east/b", "east2/a"]);
    let last = list(&mut world, None, first.next, 3);
    assert_eq!((keys(&last), last.next), (vec!["west/a".to_owned()], None));
    let east = list(&mut world, Some("east"), None, 1);
    assert_eq!(
        (keys(&east), &east.next),
        (vec!["east/a".to_owned()], &Some(key("east/b")))
    );
    let rest = list(&mut world, Some("east"), east.next, 1);
    assert_eq!((keys(&rest), rest.next), (vec!["east/b".to_owned()], None));
    assert_eq!(
        list(&mut world, Some("north"), Some(key("east/b")), 9),
        ClaimsPage::default()
    );
}

#[test]
fn what_a_claim_is_to_begin_with_must_exist() {
    let mut world = World::new();
    let mut request = request("east/pvc-1", "/data", 0);
    request.source = Some(CopySource::Claim(key("east/nothing")));
    assert_eq!(
        claim_with(&mut world, request),
        Err(Refused::UnknownClaim(key("east/nothing")))
    );
}

/// A mount of a node begins.
fn mount(world: &mut World, session: u64, node: &str) {
    let description = SessionDescription {
        node: Some(node.parse().unwrap()),
        ..SessionDescription::default()
    };
    let (session, role, near) = (SessionId(session), Role::Client, Side::Primary);
    world
        .maintain(&Maintenance::OpenSession {
            session,
            role,
            near,
            description,
        })
        .unwrap();
}

fn lost(world: &mut World, session: u64) {
    let session = SessionId(session);
    world.maintain(&Maintenance::CloseSession { session }).unwrap();
}

fn hold(world: &mut World, to: &AccessTo, node: &str, target: &str, mode: AccessMode) -> Result<(), Refused> {
    let operation = Operation::HoldAccess {
        to: to.clone(),
        node: node.parse().unwrap(),
        target: Label::new(target).unwrap(),
        mode,
    };
    ask(world, &operation).map(|reply| assert_eq!(reply, Reply::Done))
}

fn let_go(world: &mut World, node: &str, target: &str) {
    let operation = Operation::ReleaseAccess {
        node: node.parse().unwrap(),
        target: Label::new(target).unwrap(),
    };
    assert_eq!(ask(world, &operation), Ok(Reply::Done));
}

fn holds(world: &mut World, node: Option<&str>) -> HoldsPage {
    let operation = Operation::ListAccess {
        node: node.map(|node| node.parse().unwrap()),
        from: None,
        limit: 10,
    };
    match ask(world, &operation) {
        Ok(Reply::Holds(page)) => page,
        other => panic!("{other:?}"),
    }
}

fn holder(refused: Result<(), Refused>) -> (NodeName, String) {
    match refused {
        Err(Refused::Held { holder, .. }) => {
            let AccessHold { node, target, .. } = *holder;
            (node, target.to_string())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn access_modes_hold_across_clusters_claims_and_paths() {
    let mut world = World::new();
    claim(&mut world, "east/pvc-1", "/team/data", 0).unwrap();
    claim(&mut world, "west/pvc-9", "/team/data", 0).unwrap();
    let (east, west) = (
        AccessTo::Claim(key("east/pvc-1")),
        AccessTo::Claim(key("west/pvc-9")),
    );
    let by_path = AccessTo::Path(path("/team/data"));
    assert_eq!(
        hold(&mut world, &east, "east/n1", "pod-1", AccessMode::SinglePod),
        Err(Refused::NoMount("east/n1".parse().unwrap()))
    );
    mount(&mut world, 11, "east/n1");
    mount(&mut world, 12, "west/n1");
    hold(&mut world, &east, "east/n1", "pod-1", AccessMode::SinglePod).unwrap();
    hold(&mut world, &east, "east/n1", "pod-1", AccessMode::SinglePod).unwrap();
    let first = ("east/n1".parse().unwrap(), "pod-1".to_owned());
    let also = hold(&mut world, &east, "east/n1", "pod-2", AccessMode::SinglePod);
    assert_eq!(holder(also), first);
    for to in [&west, &by_path] {
        let elsewhere = hold(&mut world, to, "west/n1", "pod-3", AccessMode::ReadOnly);
        assert_eq!(holder(elsewhere), first);
    }
    let other = hold(&mut world, &east, "east/n1", "pod-1", AccessMode::ReadWrite);
    assert!(matches!(other, Err(Refused::OtherHold { .. })), "{other:?}");
    let used = [
        release(&mut world, "east/pvc-1"),
        release(&mut world, "west/pvc-9"),
    ];
    assert!(matches!(used, [Ok(()), Err(Refused::InUse { .. })]), "{used:?}");

    let_go(&mut world, "east/n1", "pod-1");
    let_go(&mut world, "east/n1", "pod-1");
    hold(&mut world, &west, "west/n1", "pod-3", AccessMode::SingleNode).unwrap();
    hold(&mut world, &west, "west/n1", "pod-4", AccessMode::ReadWrite).unwrap();
    let elsewhere = hold(&mut world, &by_path, "east/n1", "pod-5", AccessMode::ReadWrite);
    assert_eq!(holder(elsewhere).1, "pod-3");
    let_go(&mut world, "west/n1", "pod-3");
    hold(&mut world, &by_path, "east/n1", "pod-5", AccessMode::ReadOnly).unwrap();
    assert_eq!(holds(&mut world, None).holds.len(), 2);
    assert_eq!(
        holds(&mut world, Some("east/n1")).holds[0].target.as_str(),
        "pod-5"
    );
    let missing = hold(
        &mut world,
        &AccessTo::Path(path("/x")),
        "east/n1",
        "p",
        AccessMode::ReadOnly,
    );
    assert_eq!(missing, Err(Refused::NoDirectory(path("/x"))));
}

#[test]
fn the_access_of_a_node_counts_as_long_as_one_of_its_mounts_lives() {
    let mut world = World::new();
    claim(&mut world, "east/pvc-1", "/data", 0).unwrap();
    let data = AccessTo::Claim(key("east/pvc-1"));
    mount(&mut world, 11, "east/n1");
    mount(&mut world, 12, "east/n1");
    mount(&mut world, 13, "east/n2");
    hold(&mut world, &data, "east/n1", "pod-1", AccessMode::SingleNode).unwrap();
    lost(&mut world, 11);
    let refused = hold(&mut world, &data, "east/n2", "pod-2", AccessMode::SingleNode);
    assert_eq!(holder(refused).1, "pod-1");
    lost(&mut world, 12);
    assert!(!holds(&mut world, None).holds[0].counts);
    hold(&mut world, &data, "east/n2", "pod-2", AccessMode::SingleNode).unwrap();
    assert_eq!(
        holds(&mut world, None).holds.len(),
        1,
        "what was in the way is gone"
    );
    // A dead node does not keep a directory from being removed.
    lost(&mut world, 13);
    release(&mut world, "east/pvc-1").unwrap();
    assert_eq!(holds(&mut world, None), HoldsPage::default());
}
