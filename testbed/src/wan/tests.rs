#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tokio::time::timeout;

use super::*;

/// A service that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

async fn call(stream: &mut TcpStream, what: &[u8]) -> Vec<u8> {
    stream.write_all(what).await.unwrap();
    let mut answer = vec![0; what.len()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_call_takes_a_round_trip_and_a_connection_one_more() {
    let wan = Wan::new(Duration::from_millis(60));
    let link = wan.link(Direction::WestToEast, echo().await).await.unwrap();
    let started = Instant::now();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(call(&mut stream, b"hello").await, b"hello");
    assert!(
        started.elapsed() >= Duration::from_millis(120),
        "{:?}",
        started.elapsed()
    );
    let started = Instant::now();
    assert_eq!(call(&mut stream, b"again").await, b"again");
    assert!(
        started.elapsed() >= Duration::from_millis(60),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(wan.bytes(Direction::WestToEast), 10);
    assert_eq!(wan.bytes(Direction::EastToWest), 10);
}

#[tokio::test]
async fn the_delay_is_pipelined_and_keeps_the_order() {
    let wan = Wan::new(Duration::from_millis(50));
    let link = wan.link(Direction::WestToEast, echo().await).await.unwrap();
    let stream = TcpStream::connect(link.address()).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let sent: Vec<u8> = (0..4_000_000_u32)
        .map(|number| (number / 7 % 251) as u8)
        .collect();
    let expected = sent.clone();
    let started = Instant::now();
    let sender = tokio::spawn(async move {
        // Small pieces: one after the other they would take 1000 * 50 ms.
        for piece in sent.chunks(4000) {
            to.write_all(piece).await.unwrap();
        }
        to.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    timeout(Duration::from_secs(20), from.read_to_end(&mut received))
        .await
        .unwrap()
        .unwrap();
    sender.await.unwrap();
    assert!(received == expected, "bytes were lost, added or exchanged");
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_cut_line_holds_everything_until_it_heals() {
    let wan = Wan::new(Duration::from_millis(2));
    let link = wan.link(Direction::WestToEast, echo().await).await.unwrap();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(call(&mut stream, b"one").await, b"one");
    wan.cut();
    stream.write_all(b"two").await.unwrap();
    let mut answer = [0; 3];
    assert!(
        timeout(Duration::from_millis(200), stream.read_exact(&mut answer))
            .await
            .is_err()
    );
    let mut newcomer = TcpStream::connect(link.address()).await.unwrap();
    newcomer.write_all(b"new").await.unwrap();
    assert!(
        timeout(Duration::from_millis(100), newcomer.read_exact(&mut answer))
            .await
            .is_err()
    );
    wan.heal();
    timeout(Duration::from_secs(10), stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"two");
    timeout(Duration::from_secs(10), newcomer.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"new");
}

#[tokio::test]
async fn on_a_half_open_line_requests_arrive_and_answers_do_not() {
    let wan = Wan::new(Duration::from_millis(2));
    let link = wan.link(Direction::WestToEast, echo().await).await.unwrap();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(call(&mut stream, b"one").await, b"one");
    wan.cut_direction(Direction::EastToWest);
    stream.write_all(b"two").await.unwrap();
    let mut answer = [0; 3];
    assert!(
        timeout(Duration::from_millis(200), stream.read_exact(&mut answer))
            .await
            .is_err()
    );
    assert_eq!(
        (wan.bytes(Direction::WestToEast), wan.bytes(Direction::EastToWest)),
        (6, 3)
    );
    wan.heal();
    timeout(Duration::from_secs(10), stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn broken_connections_end_and_new_ones_work() {
    let wan = Wan::new(Duration::from_millis(2));
    let link = wan.link(Direction::WestToEast, echo().await).await.unwrap();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(call(&mut stream, b"one").await, b"one");
    wan.break_connections();
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(ended.is_err() || rest.is_empty());
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(call(&mut stream, b"two").await, b"two");
}

#[tokio::test]
async fn a_link_to_nobody_ends_its_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let wan = Wan::new(Duration::from_millis(2));
    let link = wan.link(Direction::EastToWest, nobody).await.unwrap();
    let mut stream = TcpStream::connect(link.address()).await.unwrap();
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(ended.is_err() || rest.is_empty());
}
