use std::thread;

use super::*;

/// A client's side, and the holder's ends: data and control.
fn persisted() -> (PersistedStream, UnixStream, UnixStream) {
    let (data, keeper_data) = UnixStream::pair().unwrap();
    let (control, keeper_control) = UnixStream::pair().unwrap();
    (PersistedStream::new(data, control, "b1:22".to_owned()).unwrap(), keeper_data, keeper_control)
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(20))
}

#[track_caller]
fn assert_late<T: fmt::Debug>(result: io::Result<T>) {
    let error = result.unwrap_err();
    assert!(error.get_ref().is_some_and(|error| error.is::<DeadlinePassed>()), "{error:?}");
}

#[test]
fn what_was_late_can_be_done_another_time() {
    let (mut persisted, mut data, _control) = persisted();
    let mut buffer = [0; 10];
    persisted.set_deadline(soon());
    assert_late(persisted.read(&mut buffer));
    persisted.set_deadline(None);
    data.write_all(b"here").unwrap();
    assert_eq!(persisted.read(&mut buffer).unwrap(), 4);
    assert_eq!(&buffer[..4], b"here");
}

#[test]
fn a_keeper_that_takes_nothing_holds_up_no_write_for_longer_than_the_deadline() {
    let (mut persisted, mut data, _control) = persisted();
    let much = vec![7; 16 << 20];
    let mut taken = 0;
    loop {
        persisted.set_deadline(soon());
        match persisted.write(&much) {
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
    persisted.set_deadline(Some(Instant::now() + Duration::from_secs(60)));
    persisted.write_all(b"the end").unwrap();
    drop(persisted);
    let all = reader.join().unwrap().unwrap();
    assert_eq!(all.len(), taken + 7);
    assert!(all.ends_with(b"the end"));
}

#[test]
fn the_last_words_of_a_keeper_are_told() {
    let errors = |words: &[u8]| {
        [true, false].map(|is_read| {
            let (mut persisted, data, mut control) = persisted();
            control.write_all(words).unwrap();
            drop((data, control));
            assert!(!persisted.has_lost_holder());
            let failed = if is_read { persisted.read(&mut [0]) } else { persisted.write(b"hello") };
            let error = failed.unwrap_err().to_string();
            // Whoever asks again hears the same.
            assert_eq!(persisted.read(&mut [0]).unwrap_err().to_string(), error);
            assert_eq!(persisted.has_lost_holder(), words.is_empty());
            error
        })
    };
    for error in errors(b"the link is dead") {
        assert_eq!(error, "b1:22: the connection that was kept is lost: the link is dead");
    }
    for error in errors(b"\x1b[2J") {
        assert!(!error.contains('\x1b'), "{error:?}");
    }
    for error in errors(b"") {
        assert_eq!(error, "b1:22: the process that kept the connection to it has ended");
    }
    // However much it has to say, and whether or not it comes to an end.
    let (mut persisted, data, mut control) = persisted();
    control.write_all(&[b'x'; 2 * MAX_ERROR as usize]).unwrap();
    drop(data);
    let error = persisted.read(&mut [0]).unwrap_err().to_string();
    assert!((MAX_ERROR..MAX_ERROR + 100).contains(&(error.len() as u64)), "{} bytes", error.len());
}

#[test]
fn only_what_is_given_back_says_so() {
    let said = |end: fn(PersistedStream)| {
        let (persisted, _data, mut control) = persisted();
        end(persisted);
        let mut said = Vec::new();
        control.read_to_end(&mut said).unwrap();
        said
    };
    assert_eq!(said(PersistedStream::release), [RELEASE]);
    assert_eq!(said(drop), b"");
}
