use super::world::{World, create};
#[test]
fn speed() {
    let mut world = World::new();
    let mut clients: Vec<_> = (0..16).map(|_| world.client()).collect();
    world.automatic = false;
    let begun = std::time::Instant::now();
    let mut n = 0_u32;
    for round in 0..400 {
        for (i, client) in clients.iter_mut().enumerate() {
            for k in 0..8 {
                if client.inodes.is_empty() { continue; }
                let op = create(client, &format!("f{round}-{i}-{k}"));
                world.ask(client, op);
                n += 1;
            }
        }
        while world.append.is_some() { world.commit(); }
        for client in &clients { world.acknowledge_all(client); world.inbox(client.connection); }
    }
    println!("SPEED one dir shared {n} in {:?}: {:.0}/s waits {}", begun.elapsed(), f64::from(n) / begun.elapsed().as_secs_f64(), world.service.numbers().recalls_waited);
    let mut world = World::new();
    let mut client = world.client();
    world.automatic = false;
    let begun = std::time::Instant::now();
    let mut n = 0_u32;
    'out: for round in 0..400 {
        for k in 0..128 {
            if client.inodes.is_empty() { break 'out; }
            let op = create(&mut client, &format!("f{round}-{k}"));
            world.ask(&mut client, op);
            n += 1;
        }
        while world.append.is_some() { world.commit(); }
        world.inbox(client.connection);
    }
    println!("SPEED one client {n} in {:?}: {:.0}/s", begun.elapsed(), f64::from(n) / begun.elapsed().as_secs_f64());
}
