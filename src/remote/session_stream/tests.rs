use std::thread;

use super::*;
use crate::cancel::Cancel;
use crate::remote::owner::SpawnedOwner;

/// Returns a stream, and the owner's ends of its data socket and its status socket.
fn stream() -> (SessionStream, UnixStream, UnixStream) {
    let (data, owners_data) = UnixStream::pair().unwrap();
    let (status, owners_status) = UnixStream::pair().unwrap();
    let owner = Arc::new(Liveness::of_spawned("b1:22".to_owned(), SpawnedOwner::Thread(Cancel::default())));
    (SessionStream::new(data, Frames::new(status), owner, false).unwrap(), owners_data, owners_status)
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(20))
}

#[track_caller]
fn assert_late<T: fmt::Debug>(result: io::Result<T>) {
    let error = result.unwrap_err();
    assert!(error.get_ref().is_some_and(|error| error.is::<DeadlinePassed>()), "{error:?}");
}

fn failure() -> Reply {
    Reply::Ended {
        error: Some(ssh::Error::of("b1:22", Phase::Transfer, Cause::Closed)),
        command: None,
        is_channel_timeout: false,
    }
}

#[test]
fn a_read_can_be_repeated_after_its_deadline() {
    let (mut stream, mut data, _status) = stream();
    let mut buffer = [0; 10];
    stream.set_deadline(soon());
    assert_late(stream.read(&mut buffer));
    stream.set_deadline(None);
    data.write_all(b"here").unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap(), 4);
    assert_eq!(&buffer[..4], b"here");
}

#[test]
fn a_write_ends_at_its_deadline_if_the_owner_reads_nothing() {
    let (mut stream, mut data, _status) = stream();
    let much = vec![7; 16 << 20];
    let mut sent = 0;
    loop {
        stream.set_deadline(soon());
        match stream.write(&much) {
            Ok(written) => sent += written,
            late => break assert_late(late),
        }
    }
    assert!((1..much.len()).contains(&sent), "{sent} bytes");
    // Once the owner reads again, writes continue, and no byte is lost.
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        data.read_to_end(&mut all).map(|_| all)
    });
    stream.set_deadline(Some(Instant::now() + Duration::from_secs(60)));
    stream.write_all(b"the end").unwrap();
    drop(stream);
    let all = reader.join().unwrap().unwrap();
    assert_eq!(all.len(), sent + 7);
    assert!(all.ends_with(b"the end"));
}

#[test]
fn each_read_and_write_reports_why_the_stream_ended() {
    let errors = |reply: Option<Reply>| {
        [true, false].map(|is_read| {
            let (mut stream, data, status) = stream();
            reply.iter().for_each(|reply| send(&status, reply, &[]).unwrap());
            drop((data, status));
            assert!(!stream.has_lost_owner());
            let failed = if is_read { stream.read(&mut [0]) } else { stream.write(b"hello") };
            let error = failed.unwrap_err();
            assert_eq!(stream.read(&mut [0]).unwrap_err().to_string(), error.to_string());
            assert_eq!(error.kind(), if is_read { ErrorKind::UnexpectedEof } else { ErrorKind::BrokenPipe });
            (stream.has_lost_owner(), error)
        })
    };
    for (has_lost_owner, error) in errors(Some(failure())) {
        assert!(!has_lost_owner);
        // The error has its type, not only its text.
        assert!(matches!(ssh::Error::in_io(&error).unwrap().cause, Cause::Closed), "{error:?}");
        assert_eq!(error.to_string(), "b1:22: transfer: the connection was closed by the other side");
    }
    for (has_lost_owner, error) in errors(None) {
        assert!(has_lost_owner);
        assert_eq!(error.to_string(), "b1:22: the process that owns the connection to it has ended");
    }
}

#[test]
fn the_result_of_a_command_follows_its_output() {
    let (stream, mut data, status) = stream();
    data.write_all(b"said").unwrap();
    let command = Some(CommandExit { stderr: "and wrong".to_owned(), status: Some(3) });
    send(&status, &Reply::Ended { error: None, command, is_channel_timeout: false }, &[]).unwrap();
    drop((data, status));
    let output = stream.output(4).unwrap();
    assert_eq!((&output.stdout[..], &output.stderr[..], output.status), (&b"said"[..], &b"and wrong"[..], Some(3)));
}

#[test]
fn output_has_limits() {
    let cause = |stream: SessionStream, max| match stream.output(max) {
        Err(Error::Ssh(error)) => error.cause,
        other => panic!("{other:?}"),
    };
    let (much, mut data, _status) = stream();
    data.write_all(b"said").unwrap();
    assert!(matches!(cause(much, 3), Cause::TooMuchOutput(3)));
    let (mut late, _data, _status) = stream();
    late.set_deadline(soon());
    assert!(matches!(cause(late, 3), Cause::Deadline));
    let (lost, data, status) = stream();
    send(&status, &failure(), &[]).unwrap();
    drop((data, status));
    assert!(matches!(cause(lost, 3), Cause::Closed));
}

#[test]
fn only_a_released_stream_sends_a_release() {
    let greeting = Greeting { version: crate::daemon::Version(0x163), round_trip: Duration::from_micros(1234) };
    let release_of = |end: &dyn Fn(SessionStream)| {
        let (stream, _data, status) = stream();
        end(stream);
        Frames::new(status).receive::<Release>().unwrap().map(|release| (release.stream, release.greeting))
    };
    assert_eq!(release_of(&|stream| stream.release("name", greeting)), Some(("name".to_owned(), greeting)));
    assert_eq!(release_of(&drop), None);
}

#[test]
fn another_thread_ends_a_read_that_waits() {
    let (mut stream, data, mut status) = stream();
    let closer = stream.closer().unwrap();
    send(&status, &failure(), &[]).unwrap();
    let (started, is_reading) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        started.send(()).unwrap();
        stream.read(&mut [0; 10]).map_err(|error| error.kind())
    });
    is_reading.recv().unwrap();
    closer.close();
    assert_eq!(reader.join().unwrap(), Err(ErrorKind::UnexpectedEof));
    // The owner learns it, too.
    assert_eq!((&data).read(&mut [0; 10]).unwrap(), 0);
    closer.close();
    drop((data, status.read(&mut [])));
}
