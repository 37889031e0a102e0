//! What is recorded of a session, and a successor that takes it up.

use super::*;

/// Writes down what it is told, as the handler does.
#[derive(Default)]
struct Ledger(Mutex<Vec<String>>);

impl Ledger {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn write(&self, entry: String) {
        self.0.lock().unwrap().push(entry);
    }
}

impl Recorder for Ledger {
    fn added(&self, number: RequestNumber, _: &Caller, _: &Operation, early: bool) {
        self.write(format!("added {number}{}", if early { " early" } else { "" }));
    }
    fn withdrawn(&self, number: RequestNumber) {
        self.write(format!("withdrawn {number}"));
    }
    fn answered(&self, number: RequestNumber, _: &Operation, result: &Result<Reply, Errno>) {
        self.write(format!("answered {number} {}", result.is_ok()));
    }
    fn opened(&self, session: SessionId, _: &VolumeFormat) {
        self.write(format!("opened {session}"));
    }
    fn seen(&self, epoch: Epoch, position: Position) {
        self.write(format!("seen {epoch} {position}"));
    }
    fn expired(&self) {
        self.write("expired".to_owned());
    }
}

fn script() -> (Arc<Script>, mpsc::UnboundedReceiver<Peer>) {
    let (streams, peers) = mpsc::unbounded_channel();
    let script = Script {
        streams,
        capacity: 64,
    };
    (Arc::new(script), peers)
}

#[tokio::test(start_paused = true)]
async fn a_request_is_recorded_before_it_is_sent_and_its_reply_before_anybody_hears_it() {
    let (script, mut peers) = script();
    let (diary, ledger) = (Arc::new(Diary::default()), Arc::new(Ledger::default()));
    let connecting = Session::connect_recorded(script, options(), diary, ledger.clone());
    let (session, mut peer) = tokio::join!(connecting, async {
        let mut peer = peers.recv().await.unwrap();
        peer.welcome(welcome(1, 1, 0)).await;
        peer
    });
    let session = session.unwrap();
    assert_eq!(ledger.take(), ["opened 1", "seen 1 0"]);
    let asked = session.request(Caller::ROOT, mutation());
    let _ = session.early(Caller::ROOT, mutation());
    assert_eq!(ledger.take(), ["added 1", "added 2 early"]);
    assert_eq!(peer.request().await.0, 1);
    peer.reply(1).await;
    asked.await.unwrap();
    assert_eq!(ledger.take(), ["seen 1 1", "answered 1 true"]);
    peer.send(ServerMessage::Expired).await;
    settle().await;
    assert_eq!(ledger.take(), ["expired"]);
}

#[tokio::test(start_paused = true)]
async fn a_successor_resumes_the_session_and_sends_what_was_not_answered_under_the_same_numbers() {
    let (script, mut peers) = script();
    let (diary, ledger) = (Arc::new(Diary::default()), Arc::new(Ledger::default()));
    let left = |number, request, early| UnansweredRequest {
        number: RequestNumber(number),
        request,
        early,
    };
    let resumption = Resumption {
        session: SessionId(1),
        seen: (Epoch(1), Position(5)),
        format: format("volume"),
        next: RequestNumber(40),
        requests: vec![
            left(7, Some((Caller::ROOT, mutation())), false),
            left(8, None, false),
            left(9, Some((Caller::ROOT, lock(LockKind::Write, true))), false),
            left(30, Some((Caller::ROOT, mutation())), true),
        ],
    };
    let (session, serving, awaited) =
        Session::resume(script, options(), diary.clone(), ledger.clone(), resumption);
    assert_eq!(session.id(), SessionId(1));
    let numbers: Vec<_> = awaited.iter().map(|awaited| awaited.number.0).collect();
    assert_eq!(numbers, [7, 9, 30]);
    // What is asked for before there is a stream comes behind.
    let asked = session.request(Caller::ROOT, attributes_of(3));
    tokio::spawn(serving);
    let mut peer = peers.recv().await.unwrap();
    let hello = peer.welcome(resumed(1, 1, 9)).await;
    assert_eq!(hello.session, Some(SessionId(1)));
    assert_eq!(hello.seen, Some((Epoch(1), Position(5))));
    assert_eq!(hello.volume, Some(VolumeId([7; 16])));
    assert!(matches!(peer.next().await, ClientMessage::Reclaim(_)));
    assert_eq!(peer.request().await, (7, mutation()));
    assert!(matches!(
        peer.request().await,
        (8, Operation::StatFileSystem { .. })
    ));
    assert_eq!(peer.request().await, (9, lock(LockKind::Write, true)));
    assert_eq!(peer.request().await, (30, mutation()));
    assert_eq!(peer.request().await, (40, attributes_of(3)));
    for number in [8, 7, 40, 30, 9] {
        peer.reply(number).await;
    }
    asked.await.unwrap();
    for awaited in awaited {
        let number = awaited.number.0;
        assert_eq!(awaited.wait(false).await, Ok(Reply::Offset(number)));
    }
    let diary = diary.take();
    let replies = diary.iter().filter(|entry| entry.starts_with("replied"));
    assert_eq!(
        replies.count(),
        4,
        "nobody hears of the one that takes a number: {diary:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_comes_too_late_is_told_that_the_session_is_over() {
    let (script, mut peers) = script();
    let (diary, ledger) = (Arc::new(Diary::default()), Arc::new(Ledger::default()));
    let resumption = Resumption {
        session: SessionId(1),
        seen: (Epoch(1), Position(5)),
        format: format("volume"),
        next: RequestNumber(40),
        requests: vec![UnansweredRequest {
            number: RequestNumber(7),
            request: Some((Caller::ROOT, mutation())),
            early: false,
        }],
    };
    let (session, serving, awaited) =
        Session::resume(script, options(), diary.clone(), ledger.clone(), resumption);
    tokio::spawn(serving);
    let mut peer = peers.recv().await.unwrap();
    peer.hello().await;
    peer.send(ServerMessage::Refused(Refusal::SessionExpired)).await;
    for awaited in awaited {
        assert_eq!(awaited.wait(false).await, Err(RequestError::SessionLost));
    }
    assert_eq!(diary.take(), ["expired"]);
    assert_eq!(ledger.take(), ["expired"]);
    drop(session);
}
