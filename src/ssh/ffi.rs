//! What is used of libssh2 beside the crate `ssh2`: that a program may receive for it (`LIBSSH2_CALLBACK_RECV`), and so
//! have a say in how much that is; and that a program may sign for it (`libssh2_userauth_publickey`), so that it need
//! not have the key.
//!
//! libssh2 (1.11.1) returns to its caller when there is nothing more to read, and looks at no clock and no size before.
//! A server that never pauses keeps it in one call for as long as it likes: with lines before its version
//! (`session_startup`), with packets that mean nothing (`_libssh2_packet_requirev`), with any packets during a read
//! (`_libssh2_channel_read`). Here a call is given a number of bytes; when they are used up it finds that there is
//! nothing to read, says EAGAIN as always, and can be made again.
//!
//! A foreign library cannot be called without `unsafe` code. The declarations are those of libssh2.h, and the library
//! is the one that comes with `ssh2`.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_void};
use std::mem::{self, MaybeUninit};
use std::os::fd::BorrowedFd;
use std::ptr;
use std::slice;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

const LIBSSH2_CALLBACK_DISCONNECT: c_int = 2;
const LIBSSH2_CALLBACK_RECV: c_int = 6;

/// A callback of any kind (`libssh2_cb_generic`).
type Callback = unsafe extern "C" fn();
type Disconnect =
    unsafe extern "C" fn(*mut c_void, c_int, *const c_char, c_int, *const c_char, c_int, *mut *mut c_void);
type Receive = unsafe extern "C" fn(c_int, *mut c_void, usize, c_int, *mut *mut c_void) -> isize;

/// `LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED`.
const NOT_SIGNED: c_int = -19;

type Sign =
    unsafe extern "C" fn(*mut c_void, *mut *mut c_uchar, *mut usize, *const c_uchar, usize, *mut *mut c_void) -> c_int;

/// Gives a signature of what it is given, unless it cannot.
pub(super) type Signing<'a> = &'a mut dyn FnMut(&[u8]) -> Option<Vec<u8>>;

unsafe extern "C" {
    fn libssh2_session_callback_set2(session: *mut c_void, kind: c_int, callback: Callback) -> *mut c_void;
    fn libssh2_userauth_publickey(
        session: *mut c_void,
        user: *const c_char,
        public_key: *const c_uchar,
        length: usize,
        sign: Sign,
        context: *mut *mut c_void,
    ) -> c_int;
    fn libssh2_userauth_list(session: *mut c_void, user: *const c_char, length: c_uint) -> *const c_char;
    /// That of the C library, which sessions of the crate `ssh2` free with.
    fn malloc(size: usize) -> *mut c_void;
}

thread_local! {
    /// What the call of libssh2 that this thread is in may still receive. Calls do not nest, and none changes threads.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// What it has received, if that is to be known.
    static HEARD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    /// What the server gave as its reason to disconnect during that call.
    static FAREWELL: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// From now on [`limited`] counts for this session, and [`with_farewell`] hears it.
pub(super) fn meter(ssh: &ssh2::Session) {
    let mut session = ssh.raw();
    let session: *mut c_void = (&raw mut *session).cast();
    // SAFETY: the session is alive, and nobody else uses it while the guard is held. `receive` and `disconnected` are what
    // callbacks of these kinds have to be: libssh2 gives them their types back. Being functions they are there for as long
    // as the session.
    unsafe {
        let receive = mem::transmute::<Receive, Callback>(receive);
        libssh2_session_callback_set2(session, LIBSSH2_CALLBACK_RECV, receive);
        let disconnected = mem::transmute::<Disconnect, Callback>(disconnected);
        libssh2_session_callback_set2(session, LIBSSH2_CALLBACK_DISCONNECT, disconnected);
    }
}

/// Makes a call of libssh2 that receives so many bytes at most. Tells how many they were as well.
pub(super) fn limited<T>(most: usize, call: impl FnOnce() -> T) -> (T, usize) {
    LEFT.set(most);
    let result = call();
    let left = LEFT.replace(usize::MAX);
    (result, most - left)
}

/// Makes a call of libssh2, and adds what it receives to `heard`.
pub(super) fn overheard<T>(heard: &mut Vec<u8>, call: impl FnOnce() -> T) -> T {
    HEARD.set(Some(mem::take(heard)));
    let result = call();
    *heard = HEARD.take().unwrap_or_default();
    result
}

/// Makes a call of libssh2, and puts the reason that the server gives for a disconnection meanwhile into `farewell`.
pub(super) fn with_farewell<T>(farewell: &mut Option<Vec<u8>>, call: impl FnOnce() -> T) -> T {
    FAREWELL.set(None);
    let result = call();
    if let Some(reason) = FAREWELL.take() {
        *farewell = Some(reason);
    }
    result
}

/// Logs in with a public key, encoded as the server is shown it, and signatures by `signing`. To be called again while it
/// says EAGAIN.
pub(super) fn log_in(
    ssh: &ssh2::Session,
    user: &CStr,
    public_key: &[u8],
    mut signing: Signing<'_>,
) -> Result<(), ssh2::Error> {
    let mut session = ssh.raw();
    let session = &raw mut *session;
    let mut context: *mut c_void = (&raw mut signing).cast();
    // SAFETY: the session is alive, and nobody else uses it while the guard is held. The name ends in NUL, the key is
    // valid for its length, and libssh2 copies from both. `sign` is what a callback of this kind has to be; it is
    // called from within this call only, while `context` and what it points to are alive and not used here.
    let code = unsafe {
        libssh2_userauth_publickey(
            session.cast(),
            user.as_ptr(),
            public_key.as_ptr(),
            public_key.len(),
            sign,
            &raw mut context,
        )
    };
    if code == 0 { Ok(()) } else { Err(ssh2::Error::from_session_error_raw(session, code)) }
}

/// The methods with which a login can go on, separated by commas. To be called again while it says EAGAIN. (The function
/// of the crate `ssh2` panics if they are not UTF-8.)
pub(super) fn login_methods(ssh: &ssh2::Session, user: &CStr) -> Result<String, ssh2::Error> {
    let mut guard = ssh.raw();
    let session: *mut c_void = (&raw mut *guard).cast();
    let length = user.to_bytes().len() as c_uint;
    // SAFETY: the session is alive, and nobody else uses it while the guard is held. The name is valid for its length, and
    // libssh2 copies from it. The text that it returns ends in NUL and is the session's, which keeps it until the next such
    // call.
    let list =
        unsafe { libssh2_userauth_list(session, user.as_ptr(), length).as_ref().map(|list| CStr::from_ptr(list)) };
    if let Some(list) = list {
        return Ok(list.to_string_lossy().into_owned());
    }
    drop(guard);
    Err(ssh2::Error::last_session_error(ssh).unwrap_or_else(ssh2::Error::unknown))
}

/// Has a [`Signing`] sign for libssh2.
///
/// # Safety
///
/// `data` is valid for `data_length` bytes, `signature` and `length` are places to write to, and `*context` points to a
/// [`Signing`] that nobody else uses.
unsafe extern "C" fn sign(
    _session: *mut c_void,
    signature: *mut *mut c_uchar,
    length: *mut usize,
    data: *const c_uchar,
    data_length: usize,
    context: *mut *mut c_void,
) -> c_int {
    // SAFETY: as the caller promises.
    let (signing, data) = unsafe { (&mut *(*context).cast::<Signing<'_>>(), slice::from_raw_parts(data, data_length)) };
    let Some(signed) = signing(data) else { return NOT_SIGNED };
    // SAFETY: any size will do; zero is avoided, for which there may be no memory to point to.
    let memory: *mut c_uchar = unsafe { malloc(signed.len().max(1)) }.cast();
    if memory.is_null() {
        return NOT_SIGNED;
    }
    // SAFETY: the new memory has room for the signature and is not part of it; the caller gave places to write to. The
    // memory is libssh2's from now on.
    unsafe {
        ptr::copy_nonoverlapping(signed.as_ptr(), memory, signed.len());
        *signature = memory;
        *length = signed.len();
    }
    0
}

/// Notes the reason that a server gives for a disconnection.
///
/// # Safety
///
/// `message` is valid for `length` bytes.
unsafe extern "C" fn disconnected(
    _session: *mut c_void,
    _code: c_int,
    message: *const c_char,
    length: c_int,
    _language: *const c_char,
    _language_length: c_int,
    _context: *mut *mut c_void,
) {
    let length = usize::try_from(length).unwrap_or(0);
    if !message.is_null() && length > 0 {
        // SAFETY: as the caller promises.
        let message = unsafe { slice::from_raw_parts(message.cast::<u8>(), length) };
        FAREWELL.set(Some(message.to_vec()));
    }
}

/// recv(2) as libssh2 has it: minus the error number when it fails, and EAGAIN where it should only be repeated.
///
/// # Safety
///
/// `socket` is an open descriptor, and `buffer` has room for `length` bytes.
unsafe extern "C" fn receive(
    socket: c_int,
    buffer: *mut c_void,
    length: usize,
    flags: c_int,
    _session: *mut *mut c_void,
) -> isize {
    let failed = |error: Errno| -(error.raw_os_error() as isize);
    let left = LEFT.get();
    if left == 0 {
        return failed(Errno::AGAIN);
    }
    // SAFETY: the session owns its socket and keeps it open.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    // SAFETY: the buffer belongs to the call that this one is part of, which does not use it meanwhile. It may hold
    // anything.
    let buffer = unsafe { slice::from_raw_parts_mut(buffer.cast::<MaybeUninit<u8>>(), length.min(left)) };
    match recv(socket, buffer, RecvFlags::from_bits_retain(flags as u32)) {
        Ok(((received, _), _)) => {
            LEFT.set(left - received.len());
            HEARD.with_borrow_mut(|heard| heard.iter_mut().for_each(|heard| heard.extend_from_slice(received)));
            received.len() as isize
        }
        Err(Errno::INTR) => failed(Errno::AGAIN),
        Err(error) => failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::ptr;

    fn take(socket: &impl AsRawFd, buffer: &mut [u8]) -> isize {
        // SAFETY: the descriptor is open, and the buffer has the length that is given.
        unsafe { receive(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0, ptr::null_mut()) }
    }

    #[test]
    fn a_call_receives_so_much_and_no_more() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[7; 1000]).unwrap();
        let again = -(Errno::AGAIN.raw_os_error() as isize);
        let mut buffer = [0; 300];
        let call = || [take(&ours, &mut buffer), take(&ours, &mut buffer), take(&ours, &mut buffer)];
        assert_eq!(limited(500, call), ([300, 200, again], 500));
        // What is left is there for the next one, and nothing counts between them.
        assert_eq!(limited(500, || take(&ours, &mut [0; 300])), (300, 300));
        assert_eq!(take(&ours, &mut [0; 300]), 200);
    }

    #[test]
    fn what_a_call_receives_is_overheard() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"SSH-2.0-x").unwrap();
        let mut heard = Vec::new();
        for _ in 0..2 {
            assert_eq!(overheard(&mut heard, || take(&ours, &mut [0; 4])), 4);
        }
        take(&ours, &mut [0; 4]);
        assert_eq!(heard, b"SSH-2.0-");
    }

    #[test]
    fn errors_and_the_end_are_those_of_recv() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        assert_eq!(take(&ours, &mut [0]), -(Errno::AGAIN.raw_os_error() as isize));
        drop(theirs);
        assert_eq!(take(&ours, &mut [0]), 0);
        let file = File::open("/dev/null").unwrap();
        assert_eq!(limited(5, || take(&file, &mut [0])), (-(Errno::NOTSOCK.raw_os_error() as isize), 0));
    }
}
