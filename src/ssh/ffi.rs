//! The functions of libssh2 that the crate `ssh2` does not offer. A callback receives for libssh2
//! (`LIBSSH2_CALLBACK_RECV`), which limits how much that is. Another callback signs for it
//! (`libssh2_userauth_publickey`), so that libssh2 does not have the key.
//!
//! libssh2 (1.11.1) returns to its caller when there is nothing more to read, and checks neither the time nor the size
//! before. A server that sends without a pause can keep it in one call indefinitely: with lines before its version
//! (`session_startup`), with packets to ignore (`_libssh2_packet_requirev`), with any packets during a read
//! (`_libssh2_channel_read`). So each call has a limit of received bytes. When it is reached, the callback returns
//! EAGAIN as if there were nothing to read, the call returns EAGAIN, and the caller can repeat it.
//!
//! A foreign library cannot be called without `unsafe` code. The declarations are those of libssh2.h, and the library
//! is the one that the crate `ssh2` includes.
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

/// A function that returns the signature of its argument; `None` if it cannot sign.
pub(super) type Signer<'a> = &'a mut dyn FnMut(&[u8]) -> Option<Vec<u8>>;

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
    /// The function of the C library. Sessions of the crate `ssh2` free memory with its counterpart.
    fn malloc(size: usize) -> *mut c_void;
}

thread_local! {
    /// The number of bytes that the current call of libssh2 on this thread may still receive. Calls do not nest, and
    /// none changes threads.
    static RECEIVE_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// The bytes that the call has received, if a caller captures them.
    static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    /// The reason that the server has sent for a disconnection during the call.
    static DISCONNECT_REASON: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Installs the callbacks of a session, which [`with_receive_limit`], [`with_capture`] and [`with_disconnect_reason`]
/// need.
pub(super) fn install_callbacks(ssh: &ssh2::Session) {
    let mut session = ssh.raw();
    let session: *mut c_void = (&raw mut *session).cast();
    // SAFETY: the session is alive, and the guard excludes other users. `receive` and `disconnected` have the types of
    // these callbacks, to which libssh2 casts them back. As functions they outlive the session.
    unsafe {
        let receive = mem::transmute::<Receive, Callback>(receive);
        libssh2_session_callback_set2(session, LIBSSH2_CALLBACK_RECV, receive);
        let disconnected = mem::transmute::<Disconnect, Callback>(disconnected);
        libssh2_session_callback_set2(session, LIBSSH2_CALLBACK_DISCONNECT, disconnected);
    }
}

/// Makes a call of libssh2 that receives at most `limit` bytes. Returns the number of received bytes as well.
pub(super) fn with_receive_limit<T>(limit: usize, call: impl FnOnce() -> T) -> (T, usize) {
    RECEIVE_LEFT.set(limit);
    let result = call();
    let left = RECEIVE_LEFT.replace(usize::MAX);
    (result, limit - left)
}

/// Makes a call of libssh2, and appends the bytes that it receives to `captured`.
pub(super) fn with_capture<T>(captured: &mut Vec<u8>, call: impl FnOnce() -> T) -> T {
    CAPTURED.set(Some(mem::take(captured)));
    let result = call();
    *captured = CAPTURED.take().unwrap_or_default();
    result
}

/// Makes a call of libssh2, and sets `reason` if the server sends the reason for a disconnection meanwhile.
pub(super) fn with_disconnect_reason<T>(reason: &mut Option<Vec<u8>>, call: impl FnOnce() -> T) -> T {
    DISCONNECT_REASON.set(None);
    let result = call();
    if let Some(found) = DISCONNECT_REASON.take() {
        *reason = Some(found);
    }
    result
}

/// Logs in with a public key, in the encoding of the protocol, and with signatures of `signer`. The caller repeats it
/// while it returns EAGAIN.
pub(super) fn log_in(
    ssh: &ssh2::Session,
    user: &CStr,
    public_key: &[u8],
    mut signer: Signer<'_>,
) -> Result<(), ssh2::Error> {
    let mut session = ssh.raw();
    let session = &raw mut *session;
    let mut context: *mut c_void = (&raw mut signer).cast();
    // SAFETY: the session is alive, and the guard excludes other users. The name ends in NUL, the key is valid for its
    // length, and libssh2 copies from both. `sign` has the type of this callback. It is called only from within this
    // call, while `context` and its target are alive and not used here.
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

/// Returns the methods with which a login can continue, separated by commas. The caller repeats it while it returns
/// EAGAIN. (The function of the crate `ssh2` panics if they are not UTF-8.)
pub(super) fn login_methods(ssh: &ssh2::Session, user: &CStr) -> Result<String, ssh2::Error> {
    let mut guard = ssh.raw();
    let session: *mut c_void = (&raw mut *guard).cast();
    let length = user.to_bytes().len() as c_uint;
    // SAFETY: the session is alive, and the guard excludes other users. The name is valid for its length, and libssh2
    // copies from it. The returned text ends in NUL and belongs to the session, which keeps it until the next such
    // call.
    let list =
        unsafe { libssh2_userauth_list(session, user.as_ptr(), length).as_ref().map(|list| CStr::from_ptr(list)) };
    if let Some(list) = list {
        return Ok(list.to_string_lossy().into_owned());
    }
    drop(guard);
    Err(ssh2::Error::last_session_error(ssh).unwrap_or_else(ssh2::Error::unknown))
}

/// Signs for libssh2 with the [`Signer`] in `context`.
///
/// # Safety
///
/// `data` is valid for `data_length` bytes, `signature` and `length` can be written, and `*context` points to a
/// [`Signer`] that has no other user.
unsafe extern "C" fn sign(
    _session: *mut c_void,
    signature: *mut *mut c_uchar,
    length: *mut usize,
    data: *const c_uchar,
    data_length: usize,
    context: *mut *mut c_void,
) -> c_int {
    // SAFETY: as the caller promises.
    let (signer, data) = unsafe { (&mut *(*context).cast::<Signer<'_>>(), slice::from_raw_parts(data, data_length)) };
    let Some(signed) = signer(data) else { return NOT_SIGNED };
    // SAFETY: malloc(3) accepts any size. The size is not zero, for which it may return a null pointer.
    let memory: *mut c_uchar = unsafe { malloc(signed.len().max(1)) }.cast();
    if memory.is_null() {
        return NOT_SIGNED;
    }
    // SAFETY: the new memory has room for the signature and does not overlap it, and the caller's places can be
    // written. From then on the memory belongs to libssh2.
    unsafe {
        ptr::copy_nonoverlapping(signed.as_ptr(), memory, signed.len());
        *signature = memory;
        *length = signed.len();
    }
    0
}

/// Stores the reason that a server sends for a disconnection.
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
        DISCONNECT_REASON.set(Some(message.to_vec()));
    }
}

/// Receives for libssh2, as recv(2) does. Returns the negative error number after a failure, and EAGAIN if libssh2
/// should repeat the call.
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
    let left = RECEIVE_LEFT.get();
    if left == 0 {
        return failed(Errno::AGAIN);
    }
    // SAFETY: the session owns its socket and keeps it open.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    // SAFETY: the buffer belongs to the calling function, which does not use it meanwhile. Its bytes may be
    // uninitialized.
    let buffer = unsafe { slice::from_raw_parts_mut(buffer.cast::<MaybeUninit<u8>>(), length.min(left)) };
    match recv(socket, buffer, RecvFlags::from_bits_retain(flags as u32)) {
        Ok(((received, _), _)) => {
            RECEIVE_LEFT.set(left - received.len());
            CAPTURED.with_borrow_mut(|captured| {
                captured.iter_mut().for_each(|captured| captured.extend_from_slice(received))
            });
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

    fn read(socket: &impl AsRawFd, buffer: &mut [u8]) -> isize {
        // SAFETY: the descriptor is open, and the buffer has the length that is given.
        unsafe { receive(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0, ptr::null_mut()) }
    }

    #[test]
    fn a_call_receives_at_most_its_limit() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[7; 1000]).unwrap();
        let again = -(Errno::AGAIN.raw_os_error() as isize);
        let mut buffer = [0; 300];
        let call = || [read(&ours, &mut buffer), read(&ours, &mut buffer), read(&ours, &mut buffer)];
        assert_eq!(with_receive_limit(500, call), ([300, 200, again], 500));
        // The rest stays for the next call, and there is no limit outside of calls.
        assert_eq!(with_receive_limit(500, || read(&ours, &mut [0; 300])), (300, 300));
        assert_eq!(read(&ours, &mut [0; 300]), 200);
    }

    #[test]
    fn received_bytes_are_captured() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"SSH-2.0-x").unwrap();
        let mut captured = Vec::new();
        for _ in 0..2 {
            assert_eq!(with_capture(&mut captured, || read(&ours, &mut [0; 4])), 4);
        }
        read(&ours, &mut [0; 4]);
        assert_eq!(captured, b"SSH-2.0-");
    }

    #[test]
    fn errors_and_the_end_are_those_of_recv() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        assert_eq!(read(&ours, &mut [0]), -(Errno::AGAIN.raw_os_error() as isize));
        drop(theirs);
        assert_eq!(read(&ours, &mut [0]), 0);
        let file = File::open("/dev/null").unwrap();
        assert_eq!(with_receive_limit(5, || read(&file, &mut [0])), (-(Errno::NOTSOCK.raw_os_error() as isize), 0));
    }
}
