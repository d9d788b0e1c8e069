//! The binding to libgcrypt: s-expressions, signing, verifying, hashing.
//!
//! A foreign library cannot be called without `unsafe` code. This file has all `unsafe` code for libgcrypt.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

/// The first version that signs with deterministic nonces over Ed25519 and prints s-expressions in the form that is
/// compared here.
const MIN_LIBGCRYPT_VERSION: &CStr = c"1.8.0";

/// The initial size of secure memory in bytes, and the step by which it grows.
const SECURE_MEMORY_SIZE: c_int = 128 << 10;

// `enum gcry_ctl_cmds` and `enum gcry_sexp_format` of gcrypt.h.
const INIT_SECMEM: c_int = 24;
const DISABLE_SECMEM_WARN: c_int = 27;
const INITIALIZATION_FINISHED: c_int = 38;
const INITIALIZATION_FINISHED_P: c_int = 39;
const AUTO_EXPAND_SECMEM: c_int = 78;
const CANONICAL: c_int = 1;

type Allocate = unsafe extern "C" fn(usize) -> *mut c_void;

unsafe extern "C" {
    /// Allocates memory of the C library, which libgcrypt frees if it is not secure memory.
    fn malloc(size: usize) -> *mut c_void;
}

thread_local! {
    /// Whether libgcrypt handles a secret in a call of this thread.
    static IS_SECRET: Cell<bool> = const { Cell::new(false) };
}

#[link(name = "gcrypt")]
unsafe extern "C" {
    fn gcry_check_version(required: *const c_char) -> *const c_char;
    fn gcry_control(command: c_int, ...) -> c_uint;
    fn gcry_set_allocation_handler(
        allocate: Option<Allocate>,
        allocate_secure: Option<Allocate>,
        is_secure: Option<unsafe extern "C" fn(*const c_void) -> c_int>,
        reallocate: Option<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>,
        free: Option<unsafe extern "C" fn(*mut c_void)>,
    );
    fn gcry_malloc_secure(size: usize) -> *mut c_void;
    fn gcry_free(memory: *mut c_void);
    fn gcry_strerror(error: c_uint) -> *const c_char;
    fn gcry_sexp_sscan(sexp: *mut *mut c_void, offset: *mut usize, text: *const c_char, length: usize) -> c_uint;
    fn gcry_sexp_sprint(sexp: *mut c_void, mode: c_int, buffer: *mut c_void, length: usize) -> usize;
    fn gcry_sexp_release(sexp: *mut c_void);
    fn gcry_sexp_build(sexp: *mut *mut c_void, offset: *mut usize, format: *const c_char, ...) -> c_uint;
    fn gcry_pk_sign(signature: *mut *mut c_void, data: *mut c_void, key: *mut c_void) -> c_uint;
    fn gcry_pk_verify(signature: *mut c_void, data: *mut c_void, key: *mut c_void) -> c_uint;
    fn gcry_mpi_ec_new(context: *mut *mut c_void, key: *mut c_void, curve: *const c_char) -> c_uint;
    fn gcry_mpi_ec_get_mpi(name: *const c_char, context: *mut c_void, copy: c_int) -> *mut c_void;
    fn gcry_mpi_release(number: *mut c_void);
    fn gcry_ctx_release(context: *mut c_void);
    fn gcry_md_open(hash: *mut *mut c_void, algorithm: c_int, flags: c_uint) -> c_uint;
    fn gcry_md_write(hash: *mut c_void, bytes: *const c_void, length: usize);
    fn gcry_md_read(hash: *mut c_void, algorithm: c_int) -> *const c_uchar;
    fn gcry_md_close(hash: *mut c_void);
}

/// An s-expression inside libgcrypt. It never changes.
pub struct Handle(NonNull<c_void>);

// SAFETY: libgcrypt's s-expressions belong to no thread; its allocator has its own lock.
unsafe impl Send for Handle {}
// SAFETY: all that is done with a shared handle is to read from it: `gcry_sexp_sprint`, `gcry_pk_sign` and
// `gcry_pk_verify` take their operands as they are and copy what they compute with.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle came from libgcrypt, is released nowhere else, and is not used any more.
        unsafe { gcry_sexp_release(self.0.as_ptr()) }
    }
}

/// Makes a call in which libgcrypt handles a secret. libgcrypt copies parts of keys into usual memory, even those in
/// secure memory (`gcry_sexp_find_token`), and does not wipe it. So all memory that it allocates meanwhile is secure
/// memory.
fn with_secret<T>(call: impl FnOnce() -> T) -> T {
    let before = IS_SECRET.replace(true);
    let result = call();
    IS_SECRET.set(before);
    result
}

/// The allocator of libgcrypt.
///
/// # Safety
///
/// None needed: any size will do.
unsafe extern "C" fn allocate(size: usize) -> *mut c_void {
    // SAFETY: any size will do for both. libgcrypt distinguishes secure memory from other memory when it frees it.
    unsafe { if IS_SECRET.get() { gcry_malloc_secure(size) } else { malloc(size) } }
}

impl Handle {
    /// Parses text. The error is libgcrypt's message, with the position but without the text.
    pub fn new(text: &[u8]) -> Result<Handle, String> {
        initialize()?;
        let mut sexp = ptr::null_mut();
        let mut offset = 0;
        // SAFETY: `text` is valid for its length, which is given, and libgcrypt copies from it; the other two are
        // places to write to.
        let code = unsafe { gcry_sexp_sscan(&raw mut sexp, &raw mut offset, text.as_ptr().cast(), text.len()) };
        check(code).map_err(|error| format!("{error}, at byte {offset}"))?;
        Handle::from_result(sexp)
    }

    /// Parses secret text. If the text is in secure memory, libgcrypt stores its values there too.
    pub fn secret(text: &[u8]) -> Result<Handle, String> {
        initialize()?;
        let copy = SecureCopy::new(text)?;
        with_secret(|| Handle::new(copy.as_slice()))
    }

    /// Returns the canonical form.
    pub fn canonical(&self) -> Vec<u8> {
        // SAFETY: without a buffer the needed length is returned and nothing is written.
        let length = unsafe { gcry_sexp_sprint(self.0.as_ptr(), CANONICAL, ptr::null_mut(), 0) };
        let mut text = vec![0u8; length];
        // SAFETY: the buffer has the length that is given.
        let written = unsafe { gcry_sexp_sprint(self.0.as_ptr(), CANONICAL, text.as_mut_ptr().cast(), length) };
        text.truncate(written);
        text
    }

    /// Signs this `data` with a secret key, and returns the `sig-val`.
    pub fn sign(&self, secret: &Handle) -> Result<Handle, String> {
        let mut signature = ptr::null_mut();
        // SAFETY: both handles are alive; the first argument is a place to write to.
        let code = with_secret(|| unsafe { gcry_pk_sign(&raw mut signature, self.0.as_ptr(), secret.0.as_ptr()) });
        check(code)?;
        Handle::from_result(signature)
    }

    /// Verifies this `sig-val` for this `data` and public key.
    pub fn verify(&self, data: &Handle, public: &Handle) -> Result<(), String> {
        // SAFETY: all three handles are alive.
        check(unsafe { gcry_pk_verify(self.0.as_ptr(), data.0.as_ptr(), public.0.as_ptr()) })
    }

    /// Returns `(q POINT)`: the public half of this secret key over an elliptic curve, in the encoding `name` (`q`, or
    /// `q@eddsa`).
    pub fn public_point(&self, name: &CStr) -> Result<Handle, String> {
        let mut point = ptr::null_mut();
        let find = || -> Result<(), String> {
            let mut context = ptr::null_mut();
            // SAFETY: the handle is alive; the first argument is a place to write to, the last one may be null.
            check(unsafe { gcry_mpi_ec_new(&raw mut context, self.0.as_ptr(), ptr::null()) })?;
            // SAFETY: the context is new and released here, and nowhere else. So is the number, a copy, if there is
            // one; `%M` stands for one. The place to write to is one.
            unsafe {
                let number = gcry_mpi_ec_get_mpi(name.as_ptr(), context, 1);
                gcry_ctx_release(context);
                if number.is_null() {
                    return Err("there is no public key to it".to_owned());
                }
                let code = gcry_sexp_build(&raw mut point, ptr::null_mut(), c"(q %M)".as_ptr(), number);
                gcry_mpi_release(number);
                check(code)
            }
        };
        with_secret(find)?;
        Handle::from_result(point)
    }

    fn from_result(sexp: *mut c_void) -> Result<Handle, String> {
        NonNull::new(sexp).map(Handle).ok_or_else(|| "libgcrypt returned nothing".to_owned())
    }
}

/// A copy of some bytes in secure memory.
struct SecureCopy {
    memory: NonNull<c_void>,
    length: usize,
}

impl SecureCopy {
    fn new(bytes: &[u8]) -> Result<SecureCopy, String> {
        // SAFETY: any size will do; zero is avoided, for which there may be no memory to point to.
        let memory = unsafe { gcry_malloc_secure(bytes.len().max(1)) };
        let memory = NonNull::new(memory).ok_or("there is no secure memory left")?;
        // SAFETY: the new memory has room for these bytes and is not part of them.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_ptr().cast(), bytes.len()) };
        Ok(SecureCopy { memory, length: bytes.len() })
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: this many bytes have been written there, and they stay until `self` is dropped.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.length) }
    }
}

impl Drop for SecureCopy {
    fn drop(&mut self) {
        // SAFETY: the memory came from libgcrypt and is freed nowhere else. Being secure, it is wiped.
        unsafe { gcry_free(self.memory.as_ptr()) }
    }
}

/// A hash that is being computed, of one algorithm.
pub struct Hash {
    handle: NonNull<c_void>,
    size: usize,
}

// SAFETY: a hash belongs to no thread, and there is no way to use a shared one.
unsafe impl Send for Hash {}

impl Hash {
    /// Begins a hash. `algorithm` is one of `enum gcry_md_algos`, whose hashes have `size` bytes.
    pub fn new(algorithm: c_int, size: usize) -> Result<Hash, String> {
        initialize()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the first argument is a place to write to. An unknown algorithm is an error.
        check(unsafe { gcry_md_open(&raw mut handle, algorithm, 0) })?;
        NonNull::new(handle).map(|handle| Hash { handle, size }).ok_or_else(|| "libgcrypt returned nothing".to_owned())
    }

    pub fn update(&mut self, bytes: &[u8]) {
        // SAFETY: the handle is alive, and `bytes` is valid for its length.
        unsafe { gcry_md_write(self.handle.as_ptr(), bytes.as_ptr().cast(), bytes.len()) }
    }

    pub fn finish(self) -> Vec<u8> {
        // SAFETY: the handle is alive and has one algorithm, for which 0 stands. The result belongs to the handle.
        let hash = unsafe { gcry_md_read(self.handle.as_ptr(), 0) };
        if hash.is_null() {
            return Vec::new();
        }
        // SAFETY: the caller of `new` gave this size, and the handle lives until the copy is made.
        unsafe { std::slice::from_raw_parts(hash, self.size) }.to_vec()
    }
}

impl Drop for Hash {
    fn drop(&mut self) {
        // SAFETY: the handle came from libgcrypt and is closed nowhere else.
        unsafe { gcry_md_close(self.handle.as_ptr()) }
    }
}

/// Initializes libgcrypt, once in a process, before anything else.
fn initialize() -> Result<(), String> {
    static IS_INITIALIZED: OnceLock<bool> = OnceLock::new();
    let is_initialized = IS_INITIALIZED.get_or_init(|| {
        // SAFETY: any command may be given at any time. The handler has the required signature, and a function lives as
        // long as the process; libgcrypt's own functions reallocate and free its memory.
        unsafe {
            if gcry_control(INITIALIZATION_FINISHED_P) == 0 {
                gcry_set_allocation_handler(Some(allocate), None, None, None, None);
            }
        }
        // SAFETY: the argument is a string that ends in NUL. The call may be made at any time and sets libgcrypt up.
        if unsafe { gcry_check_version(MIN_LIBGCRYPT_VERSION.as_ptr()) }.is_null() {
            return false;
        }
        // SAFETY: each command gets the argument that it is documented to take, an `int` or the null that stands for
        // none. If another library in this process has set libgcrypt up by now, its choices stay.
        unsafe {
            if gcry_control(INITIALIZATION_FINISHED_P) == 0 {
                // Memory that cannot be locked is used and wiped all the same, so no warning on stderr.
                gcry_control(DISABLE_SECMEM_WARN, 0 as c_int);
                gcry_control(INIT_SECMEM, SECURE_MEMORY_SIZE, 0 as c_int);
                gcry_control(AUTO_EXPAND_SECMEM, SECURE_MEMORY_SIZE, 0 as c_int);
                gcry_control(INITIALIZATION_FINISHED, 0 as c_int);
            }
        }
        true
    });
    if *is_initialized {
        Ok(())
    } else {
        Err(format!("libgcrypt is older than {}", MIN_LIBGCRYPT_VERSION.to_string_lossy()))
    }
}

/// Returns the message of libgcrypt for an error code.
fn check(code: c_uint) -> Result<(), String> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the result is a string that ends in NUL, for any code, and is never changed or freed: it is from a table,
    // or the C library's own for an error of the system, which it stores per thread.
    let words = unsafe { CStr::from_ptr(gcry_strerror(code)) };
    Err(words.to_string_lossy().into_owned())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const ADVANCED: c_int = 3;

    impl Handle {
        /// Returns the advanced form, from libgcrypt itself.
        pub fn advanced(&self) -> Vec<u8> {
            let mut text = vec![0u8; 1 << 16];
            // SAFETY: the buffer has the length that is given.
            let written = unsafe { gcry_sexp_sprint(self.0.as_ptr(), ADVANCED, text.as_mut_ptr().cast(), text.len()) };
            text.truncate(written);
            text
        }
    }

    unsafe extern "C" {
        fn gcry_is_secure(memory: *const c_void) -> c_int;
    }

    #[test]
    fn secrets_are_in_secure_memory() {
        let secret = Handle::secret(b"(private-key)").unwrap();
        let public = Handle::new(b"(public-key)").unwrap();
        // SAFETY: the call checks an address and does not dereference it.
        let is_secure = |handle: &Handle| unsafe { gcry_is_secure(handle.0.as_ptr()) != 0 };
        assert!(is_secure(&secret));
        assert!(!is_secure(&public));
    }

    /// Freed memory is wiped. A leak would show as some 240 MB of copies or of s-expressions.
    #[test]
    fn secret_memory_is_freed() {
        let resident = || {
            let sizes = std::fs::read_to_string("/proc/self/statm").unwrap();
            sizes.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
        };
        let text = [b"(1:a60000:", &[b'x'; 60_000][..], b")"].concat();
        let before = resident();
        for _ in 0..4000 {
            drop(Handle::secret(&text).unwrap());
        }
        let more = resident().saturating_sub(before);
        assert!(more < 150 << 20, "{more} bytes more");
    }

    #[test]
    fn errors_have_words() {
        assert_eq!(check(8).unwrap_err(), "Bad signature");
        let error = Handle::new(b"(a").err().unwrap();
        assert!(error.contains("parentheses"), "{error}");
    }
}
