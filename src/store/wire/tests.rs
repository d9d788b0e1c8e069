use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes).unwrap();
    bytes
}

#[test]
fn each_kind_has_its_bytes() {
    assert_eq!(written(|w| write_u64(w, 0x0102_0304_0506_0708)), [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(written(|w| write_int(w, 0x6e69_7863)), *b"cxin\0\0\0\0");
    assert_eq!(written(|w| write_bool(w, true)), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(written(|w| write_bytes(w, b"")), [0; 8]);
    assert_eq!(written(|w| write_bytes(w, b"hello")), *b"\x05\0\0\0\0\0\0\0hello\0\0\0");
    assert_eq!(written(|w| write_bytes(w, b"12345678")), *b"\x08\0\0\0\0\0\0\x0012345678");
    assert_eq!(
        written(|w| write_list(w, ["a", ""])),
        *b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
}

#[test]
fn an_int_has_32_bits() {
    assert_eq!(read_int(&mut &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0][..]).unwrap(), u32::MAX);
    for byte in 4..8 {
        let mut bytes = [0; 8];
        bytes[byte] = 1;
        assert!(matches!(read_int(&mut &bytes[..]), Err(WireError::NotInt { .. })));
        assert!(read_u64(&mut &bytes[..]).is_ok());
    }
}

#[test]
fn a_boolean_is_0_or_1() {
    assert!(!read_bool(&mut &[0; 8][..]).unwrap());
    assert!(matches!(read_bool(&mut &2u64.to_le_bytes()[..]), Err(WireError::NotBool { value: 2 })));
    assert!(matches!(read_bool(&mut &(1u64 << 32).to_le_bytes()[..]), Err(WireError::NotBool { .. })));
}

#[test]
fn limits_hold_before_anything_is_read() {
    let bytes = written(|w| write_bytes(w, b"hello"));
    assert_eq!(read_bytes(&mut &bytes[..], 5).unwrap(), b"hello");
    assert!(matches!(read_bytes(&mut &bytes[..], 4), Err(WireError::TooLong { length: 5, max: 4 })));
    for huge in [1 << 32, 1 << 63, u64::MAX - 6, u64::MAX] {
        let mut bytes = &huge.to_le_bytes()[..];
        assert!(matches!(read_bytes(&mut bytes, 1 << 20), Err(WireError::TooLong { length, .. }) if length == huge));
        let mut bytes = &huge.to_le_bytes()[..];
        assert!(matches!(read_list(&mut bytes, 1 << 20, 8), Err(WireError::TooMany { count, .. }) if count == huge));
    }
    let list = written(|w| write_list(w, ["a", "b"]));
    assert!(matches!(read_list(&mut &list[..], 1, 1), Err(WireError::TooMany { count: 2, max: 1 })));
    assert!(matches!(read_list(&mut &list[..], 2, 0), Err(WireError::TooLong { length: 1, max: 0 })));
    assert_eq!(read_list(&mut &list[..], 2, 1).unwrap(), [b"a", b"b"]);
}

#[test]
fn an_announced_length_is_not_allocated() {
    let mut bytes = &(1u64 << 40).to_le_bytes()[..];
    assert!(matches!(read_bytes(&mut bytes, usize::MAX >> 1), Err(WireError::Io(error))
        if error.kind() == io::ErrorKind::UnexpectedEof));
}

#[test]
fn every_byte_of_padding_must_be_zero() {
    for length in 1..8 {
        let good = written(|w| write_bytes(w, &vec![b'x'; length]));
        for position in 8 + length..16 {
            let mut bad = good.clone();
            bad[position] = 1;
            assert!(matches!(read_bytes(&mut &bad[..], 8), Err(WireError::Padding)));
            assert!(matches!(read_padding(&mut &bad[8 + length..], length as u64), Err(WireError::Padding)));
        }
    }
}

#[test]
fn padding_of_the_largest_lengths_does_not_overflow() {
    assert_eq!(padding(u64::MAX), 1);
    assert_eq!(padding(u64::MAX - 7), 0);
}

#[test]
fn a_list_cut_anywhere_is_refused() {
    let list = written(|w| write_list(w, ["hello", "", "12345678"]));
    for end in 0..list.len() {
        let error = read_list(&mut &list[..end], 9, 9).unwrap_err();
        assert!(matches!(error, WireError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof), "{end}");
    }
}

/// A reader that returns one byte per call, as a slow connection does.
struct Dripping<'a>(&'a [u8]);

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = buffer.len().min(1);
        self.0.read(&mut buffer[..end])
    }
}

proptest! {
    #[test]
    fn written_values_are_read_back(number in any::<u64>(), int in any::<u32>(), flag in any::<bool>(),
                  bytes in vec(any::<u8>(), 0..200), list in vec(vec(any::<u8>(), 0..20), 0..20)) {
        let stream = written(|w| {
            write_u64(w, number)?;
            write_int(w, int)?;
            write_bool(w, flag)?;
            write_bytes(w, &bytes)?;
            write_list(w, &list)
        });
        let mut reader = Dripping(&stream);
        prop_assert_eq!(read_u64(&mut reader).unwrap(), number);
        prop_assert_eq!(read_int(&mut reader).unwrap(), int);
        prop_assert_eq!(read_bool(&mut reader).unwrap(), flag);
        prop_assert_eq!(read_bytes(&mut reader, 200).unwrap(), bytes);
        prop_assert_eq!(read_list(&mut reader, 20, 20).unwrap(), list);
        prop_assert!(reader.0.is_empty());
    }
}

#[test]
fn a_string_may_be_longer_than_one_chunk() {
    let long = vec![7; 3 * READ_CHUNK + 5];
    let stream = written(|w| write_bytes(w, &long));
    let mut reader = &stream[..];
    assert_eq!(read_bytes(&mut reader, long.len()).unwrap(), long);
    assert!(reader.is_empty());
}
