//! What the simulated world promises: the same seed, the same run; time moves when nothing else can; a crash stops a machine.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;

use super::*;
use crate::{Frame, OpenMode, ambient};

fn frame(text: &str) -> Frame {
    Bytes::copy_from_slice(text.as_bytes()).into()
}

/// Several tasks that sleep, draw numbers, send to each other and write; what they did, in order.
fn run(seed: u64) -> (Vec<String>, u64) {
    let world = World::new(seed);
    world.set_latency(Duration::from_micros(50), Duration::from_micros(100));
    let log = Arc::new(Mutex::new(Vec::new()));
    let (env, net) = (world.env(), world.net());
    world.run_until(async {
        let listener = net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_address().to_string();
        let echo_env = env.clone();
        drop(env.spawn.spawn(
            "listener",
            Box::pin(async move {
                while let Some(connection) = listener.accept().await {
                    let task = async move {
                        while let Some(mut stream) = connection.accept().await {
                            while let Some(Ok(bytes)) = stream.source.next().await {
                                stream.sink.send(bytes.into()).await.unwrap();
                            }
                        }
                    };
                    drop(echo_env.spawn.spawn("echo", Box::pin(task)));
                }
            }),
        ));
        let clients: Vec<_> = (0..5)
            .map(|client| {
                let (env, net, log, address) = (env.clone(), Arc::clone(&net), Arc::clone(&log), address.clone());
                let own_env = env.clone();
                let task = async move {
                    let connection = net.connect(&address).await.unwrap();
                    let mut stream = connection.open().await.unwrap();
                    for round in 0..5 {
                        env.clock.sleep(Duration::from_micros(env.rng.next_u64() % 300)).await;
                        stream.sink.send(frame(&format!("{client}.{round}"))).await.unwrap();
                        let answer = stream.source.next().await.unwrap().unwrap();
                        let line = format!("{:?} {}", env.clock.now(), String::from_utf8_lossy(&answer));
                        log.lock().push(line);
                    }
                };
                own_env.spawn.spawn("client", Box::pin(task))
            })
            .collect();
        for client in clients {
            client.join().await;
        }
    });
    let lines = log.lock().clone();
    (lines, world.fingerprint())
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let (lines, fingerprint) = run(1);
    assert_eq!(lines.len(), 25);
    assert_eq!(run(1), (lines.clone(), fingerprint));
    let (other, other_fingerprint) = run(2);
    assert_ne!(other, lines);
    assert_ne!(other_fingerprint, fingerprint);
}

#[test]
fn ready_tasks_run_in_an_order_that_the_seed_decides() {
    let order = |seed| {
        let world = World::new(seed);
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..6)
            .map(|task| {
                let order = Arc::clone(&order);
                world.env().spawn.dedicated("task", Box::pin(async move { order.lock().push(task) }))
            })
            .collect();
        world.run_until(async {
            for task in tasks {
                task.join().await;
            }
        });
        order.lock().clone()
    };
    assert_eq!(order(3), order(3));
    assert!((0..10).any(|seed| order(seed) != order(3)));
}

#[test]
fn time_moves_only_when_nothing_can_run() {
    let world = World::new(4);
    let clock = world.clock().clone();
    let wall = clock.wall_ms();
    world.run_until(async {
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!(clock.now().0, Duration::from_secs(3600));
        futures::future::join(clock.sleep(Duration::from_secs(5)), clock.sleep(Duration::from_secs(2))).await;
    });
    assert_eq!(clock.now().0, Duration::from_secs(3605));
    assert_eq!(clock.wall_ms() - wall, 3_605_000);
    clock.jump_wall(-10_000);
    assert_eq!(clock.wall_ms() - wall, 3_595_000);
    assert_eq!(clock.now().0, Duration::from_secs(3605));
}

#[test]
fn a_clock_by_hand_wakes_what_is_due_and_a_dropped_sleep_is_forgotten() {
    let clock = SimClock::new();
    let woken = Arc::new(AtomicU32::new(0));
    struct Count(Arc<AtomicU32>);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let waker = Arc::new(Count(Arc::clone(&woken))).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut sleeps: Vec<_> = [1, 2, 3].map(|s| clock.sleep(Duration::from_secs(s))).into();
    for sleep in &mut sleeps {
        assert!(sleep.as_mut().poll(&mut context).is_pending());
    }
    clock.advance(Duration::from_secs(2));
    assert_eq!(woken.load(Ordering::Relaxed), 2);
    assert!(sleeps[1].as_mut().poll(&mut context).is_ready());
    drop(sleeps);
    assert!(!clock.advance_to_next());
}

#[test]
fn a_deadlock_names_who_waits() {
    let world = World::new(5);
    for name in ["stuck", "stuck too"] {
        drop(world.env().spawn.spawn(name, Box::pin(std::future::pending())));
    }
    let stuck = world.try_run_until(std::future::pending::<()>()).unwrap_err();
    assert_eq!(stuck, Stuck::Deadlock { seed: 5, waiting: vec!["stuck", "stuck too"] });
    assert_eq!(stuck.to_string(), "seed 5: nothing can run; waiting: [stuck, stuck too]");
}

#[test]
fn a_world_that_only_ticks_runs_out_of_time() {
    let mut world = World::new(6);
    let limit = Duration::from_secs(10);
    world.set_time_limit(limit);
    let clock = world.clock().clone();
    let ticks = async {
        loop {
            clock.sleep(Duration::from_secs(1)).await;
        }
    };
    let stuck = world.try_run_until(ticks).unwrap_err();
    assert_eq!(stuck, Stuck::OutOfTime { seed: 6, limit, waiting: Vec::new() });
    assert_eq!(stuck.to_string(), "seed 6: out of time after 10s; waiting: []");
    assert_eq!(clock.now().0, Duration::from_secs(11), "the first tick past the limit");
}

#[test]
fn an_aborted_task_ends_and_its_handle_tells() {
    let world = World::new(7);
    let ran = Arc::new(AtomicU32::new(0));
    let (inner, clock) = (Arc::clone(&ran), world.clock().clone());
    let mut task = world.env().spawn.spawn(
        "ticker",
        Box::pin(async move {
            loop {
                clock.sleep(Duration::from_secs(1)).await;
                inner.fetch_add(1, Ordering::Relaxed);
            }
        }),
    );
    world.run_for(Duration::from_millis(3500));
    task.abort();
    world.run_until(task.join());
    world.run_for(Duration::from_secs(10));
    assert_eq!(ran.load(Ordering::Relaxed), 3);
}

#[test]
fn a_crash_stops_the_tasks_breaks_the_connections_and_tears_the_disk() {
    let mut world = World::new(8);
    let server = world.machine("server");
    let (env, net) = (server.env(), server.net());
    drop(env.spawn.spawn(
        "server",
        Box::pin({
            let env = env.clone();
            async move {
                let listener = net.listen("0.0.0.0:9092".parse().unwrap()).await.unwrap();
                let file = env.disk.open("/f".as_ref(), OpenMode::Create).unwrap();
                let connection = listener.accept().await.unwrap();
                let mut stream = connection.accept().await.unwrap();
                while let Some(Ok(bytes)) = stream.source.next().await {
                    file.write_at(&[std::io::IoSlice::new(&bytes)], 0).unwrap();
                    stream.sink.send(bytes.into()).await.unwrap();
                }
            }
        }),
    ));
    let net = world.net();
    world.run_for(Duration::from_secs(1));
    let mut stream = world.run_until(async {
        let connection = net.connect("server:9092").await.unwrap();
        let mut stream = connection.open().await.unwrap();
        stream.sink.send(frame("hello")).await.unwrap();
        assert_eq!(stream.source.next().await.unwrap().unwrap(), "hello");
        assert_eq!(connection.peer().transport, "sim");
        (stream, connection)
    });
    server.crash();
    world.run_until(async {
        let error = stream.0.source.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        stream.0.sink.send(frame("more")).await.unwrap_err();
        assert!(stream.1.accept().await.is_none());
        let refused = net.connect("server:9092").await.err().unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
    assert!(env.disk.lock("/LOCK".as_ref()).is_ok(), "the machine is up again");
}

#[test]
fn a_closed_connection_delivers_what_was_sent_and_then_says_why() {
    let world = World::new(9);
    let net = world.net();
    world.run_until(async {
        let listener = net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert!(net.listen(listener.local_address()).await.is_err(), "in use");
        let client = net.connect(&listener.local_address().to_string()).await.unwrap();
        let server = listener.accept().await.unwrap();
        let mut ours = client.open().await.unwrap();
        let mut theirs = server.accept().await.unwrap();
        ours.sink.send(frame("last words")).await.unwrap();
        client.close("done");
        assert_eq!(theirs.source.next().await.unwrap().unwrap(), "last words");
        assert_eq!(theirs.source.next().await.unwrap().unwrap_err().to_string(), "done");
        assert!(server.accept().await.is_none());
        assert!(server.open().await.is_err());
    });
}

#[test]
fn a_finished_stream_ends_and_a_full_one_pushes_back() {
    let world = World::new(10);
    let net = world.net();
    world.run_until(async {
        let listener = net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let client = net.connect(&listener.local_address().to_string()).await.unwrap();
        let server = listener.accept().await.unwrap();
        let mut ours = client.open().await.unwrap();
        let mut theirs = server.accept().await.unwrap();
        let mut sent = 0;
        while futures::poll!(std::pin::pin!(ours.sink.send(frame("x")))).is_ready() {
            sent += 1;
            assert!(sent < 1000);
        }
        assert!(sent >= 64, "{sent}");
        let first = theirs.source.next().await.unwrap().unwrap();
        assert_eq!(first, "x");
        ours.sink.send(frame("y")).await.unwrap();
        ours.sink.close().await.unwrap();
        let mut last = first;
        while let Some(bytes) = theirs.source.next().await {
            last = bytes.unwrap();
        }
        assert_eq!(last, "y");
        drop(listener);
        assert!(net.connect("127.0.0.1:40000").await.is_err());
    });
}

/// Libraries that are handed no world find the one that polls them, each machine its own.
#[test]
fn code_that_is_handed_no_world_finds_the_one_that_runs_it() {
    let run = |crashes: bool| {
        let mut world = World::new(7);
        let other = world.machine("other");
        let (told_by, said) = tokio::sync::oneshot::channel();
        let asks = async move {
            ambient::clock().sleep(Duration::from_secs(3600)).await;
            let asked = async move {
                ambient::clock().sleep(Duration::from_secs(3600)).await;
                let _ = told_by.send(ambient::rng().next_u64());
            };
            drop(ambient::spawn().spawn("asked", Box::pin(asked)));
        };
        drop(other.env().spawn.spawn("asks", Box::pin(asks)));
        world.run_for(Duration::from_secs(3601));
        if crashes {
            other.crash();
        }
        (world.run_until(said).ok(), world.clock().now().0)
    };
    let mut again = World::new(7);
    let number = again.machine("other").env().rng.next_u64();
    assert_eq!(run(false), (Some(number), Duration::from_secs(7200)), "the machine's own clock and randomness");
    assert_eq!(run(true), (None, Duration::from_secs(3601)), "its tasks end with it, whoever started them");
    assert!(running().is_none(), "outside there is no world");
}
