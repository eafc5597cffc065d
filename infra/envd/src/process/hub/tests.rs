use super::*;

fn hub() -> Arc<Hub> {
    Arc::new(Hub::new(Arc::default()))
}

fn stdout(text: &'static [u8]) -> Next {
    Next::Data(DataEvent { stdout: Some(Bytes::from_static(text)), ..DataEvent::default() })
}

async fn push(hub: &Hub, text: &'static [u8]) {
    hub.push(Source::Stdout, Bytes::from_static(text)).await;
}

#[tokio::test]
async fn output_comes_in_order_and_then_the_end() {
    let hub = hub();
    let mut reader = Arc::clone(&hub).read(false);
    push(&hub, b"a").await;
    push(&hub, b"b").await;
    let end = EndEvent { exited: true, ..EndEvent::default() };
    hub.finish(end.clone());
    assert_eq!(reader.next().await, stdout(b"a"));
    assert_eq!(reader.next().await, stdout(b"b"));
    assert_eq!(reader.next().await, Next::End(end));
}

#[tokio::test]
async fn what_nobody_read_waits_for_the_next_reader_and_what_was_read_does_not() {
    let hub = hub();
    push(&hub, b"early").await;
    let mut first = Arc::clone(&hub).read(false);
    assert_eq!(first.next().await, stdout(b"early"));
    push(&hub, b"more").await;
    assert_eq!(first.next().await, stdout(b"more"));
    drop(first);
    // "more" was handed out, but nobody asked on, so it may have been lost with the connection.
    let mut second = Arc::clone(&hub).read(false);
    assert_eq!(second.next().await, stdout(b"more"));
    let mut replay = Arc::clone(&hub).read(true);
    assert_eq!(replay.next().await, stdout(b"early"));
}

#[tokio::test]
async fn unread_output_is_bounded_and_the_newest_is_kept() {
    let hub = hub();
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    for _ in 0..100 {
        hub.push(Source::Stdout, piece.clone()).await;
    }
    push(&hub, b"last").await;
    assert!(hub.kept() <= KEPT_BYTES.usual);
    hub.finish(EndEvent::default());
    let mut reader = Arc::clone(&hub).read(true);
    let mut last = None;
    while let Next::Data(data) = reader.next().await {
        last = data.stdout;
    }
    assert_eq!(last.as_deref(), Some(b"last".as_slice()));
}

#[tokio::test]
async fn a_slow_reader_holds_the_process_back_and_loses_nothing() {
    let hub = hub();
    let mut reader = Arc::clone(&hub).read(false);
    let writer = tokio::spawn({
        let hub = Arc::clone(&hub);
        async move {
            for _ in 0..64 {
                hub.push(Source::Stdout, Bytes::from(vec![b'x'; 64 * 1024])).await;
            }
            hub.finish(EndEvent::default());
        }
    });
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(!writer.is_finished(), "the writer must wait");
    let mut total = 0;
    while let Next::Data(data) = reader.next().await {
        total += data.stdout.unwrap().len();
    }
    assert_eq!(total, 64 * 64 * 1024);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off() {
    let hub = Arc::new(Hub::with_stall(Arc::default(), Duration::from_millis(1)));
    let mut reader = Arc::clone(&hub).read(false);
    for _ in 0..64 {
        hub.push(Source::Stdout, Bytes::from(vec![b'x'; 64 * 1024])).await;
    }
    assert_eq!(reader.next().await, Next::CutOff);
}

#[tokio::test]
async fn output_after_the_end_is_dropped() {
    let hub = hub();
    hub.finish(EndEvent::default());
    push(&hub, b"late").await;
    assert_eq!(hub.kept(), 0);
}

#[tokio::test]
async fn many_processes_share_a_bound() {
    let all = Arc::new(Budget::default());
    let hubs: Vec<_> = (0..64).map(|_| Arc::new(Hub::new(Arc::clone(&all)))).collect();
    for hub in &hubs {
        for _ in 0..33 {
            hub.push(Source::Stdout, Bytes::from(vec![b'x'; 64 * 1024])).await;
        }
    }
    let kept: u64 = hubs.iter().map(|hub| hub.kept()).sum();
    assert_eq!(all.kept.load(Ordering::Relaxed), kept);
    assert!(kept <= SHORT_FROM + 64 * KEPT_BYTES.short, "{kept}");
    drop(hubs);
    assert_eq!(all.kept.load(Ordering::Relaxed), 0);
}
