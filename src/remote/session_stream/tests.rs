use std::thread;

use super::*;
use crate::remote::owner::SpawnedOwner;

/// A hook's side, and the owner's ends: data and status.
fn stream() -> (SessionStream, UnixStream, UnixStream) {
    let (data, owners_data) = UnixStream::pair().unwrap();
    let (status, owners_status) = UnixStream::pair().unwrap();
    let owner = Arc::new(Liveness::of_spawned("b1:22".to_owned(), SpawnedOwner::Thread));
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
fn what_was_late_can_be_done_another_time() {
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
fn an_owner_that_takes_nothing_holds_up_no_write_for_longer_than_the_deadline() {
    let (mut stream, mut data, _status) = stream();
    let much = vec![7; 16 << 20];
    let mut taken = 0;
    loop {
        stream.set_deadline(soon());
        match stream.write(&much) {
            Ok(written) => taken += written,
            late => break assert_late(late),
        }
    }
    assert!((1..much.len()).contains(&taken), "{taken} bytes");
    // As soon as it goes on, so does this, and nothing is lost.
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        data.read_to_end(&mut all).map(|_| all)
    });
    stream.set_deadline(Some(Instant::now() + Duration::from_secs(60)));
    stream.write_all(b"the end").unwrap();
    drop(stream);
    let all = reader.join().unwrap().unwrap();
    assert_eq!(all.len(), taken + 7);
    assert!(all.ends_with(b"the end"));
}

#[test]
fn why_a_stream_has_ended_is_told_as_often_as_somebody_asks() {
    let told = |reply: Option<Reply>| {
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
    for (has_lost_owner, error) in told(Some(failure())) {
        assert!(!has_lost_owner);
        // The error itself, not its text alone.
        assert!(matches!(ssh::Error::in_io(&error).unwrap().cause, Cause::Closed), "{error:?}");
        assert_eq!(error.to_string(), "b1:22: transfer: the connection was closed by the other side");
    }
    for (has_lost_owner, error) in told(None) {
        assert!(has_lost_owner);
        assert_eq!(error.to_string(), "b1:22: the process that owns the connection to it has ended");
    }
}

#[test]
fn the_end_of_a_command_is_behind_its_output() {
    let (stream, mut data, status) = stream();
    data.write_all(b"said").unwrap();
    let command = Some(CommandExit { stderr: "and wrong".to_owned(), status: Some(3) });
    send(&status, &Reply::Ended { error: None, command, is_channel_timeout: false }, &[]).unwrap();
    drop((data, status));
    let output = stream.output(4).unwrap();
    assert_eq!((&output.stdout[..], &output.stderr[..], output.status), (&b"said"[..], &b"and wrong"[..], Some(3)));
}

#[test]
fn output_has_an_end() {
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
fn only_what_is_released_says_so() {
    let greeting = Greeting { version: crate::daemon::Version(0x163), round_trip: Duration::from_micros(1234) };
    let said = |end: &dyn Fn(SessionStream)| {
        let (stream, _data, status) = stream();
        end(stream);
        Frames::new(status).receive::<Release>().unwrap().map(|release| (release.stream, release.greeting))
    };
    assert_eq!(said(&|stream| stream.release("name", greeting)), Some(("name".to_owned(), greeting)));
    assert_eq!(said(&drop), None);
}
