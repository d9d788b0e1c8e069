//! A trivial build on a machine, which shows whether its daemon builds at all.
//!
//! The builder is a program of a few instructions, in the form that Linux starts (ELF), which needs no shell and no library:
//! it creates the directory that the variable `out` names, and ends. A variable of the derivation has a new value each time, so
//! that the machine always builds it. The output is garbage as soon as the connection ends.
//!
//! The instructions (`BUILDER_CODE`) go through the pointers above the stack pointer, past the arguments, to the variable that begins
//! with `out=`, and make the system calls `mkdir` (or `mkdirat`) and `exit` with its result. Not checked here: the systems of
//! the entry.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::daemon::{self, Client, Options};
use crate::store::derivation::{DerivationError, ModuloHashes, Recipe};
use crate::store::nar::{NarPath, Visitor, Writer};
use crate::store::path::StoreDir;

/// Names of the derivation and of its builder.
const DERIVATION_NAME: &str = "offload-test-build";
const BUILDER_NAME: &str = "offload-test-builder";

/// How much of what the daemon prints is kept, in bytes.
const MAX_SHOWN_LOG: usize = 1 << 10;

/// Where the program is in memory: at a multiple of the largest page.
const LOAD_ADDRESS: u64 = 0x1_0000;

/// What a processor runs, and how an ELF file names it.
struct Code {
    system: &'static str,
    machine: u16,
    is_64_bit: bool,
    flags: u32,
    instructions: &'static [u8],
}

const BUILDER_CODE: [Code; 5] = [
    Code {
        system: "x86_64-linux",
        machine: 62,
        is_64_bit: true,
        flags: 0,
        // lea 8(%rsp),%rbx; 1: mov (%rbx),%rdi; add $8,%rbx; test %rdi,%rdi; jz 1b; cmpl $"out=",(%rdi); jne 1b;
        // add $4,%rdi; mov $0755,%esi; mov $83,%eax; syscall; mov %eax,%edi; mov $60,%eax; syscall
        instructions: b"\x48\x8d\x5c\x24\x08\x48\x8b\x3b\x48\x83\xc3\x08\x48\x85\xff\x74\xf4\x81\x3f\x6f\x75\x74\x3d\
            \x75\xec\x48\x83\xc7\x04\xbe\xed\x01\x00\x00\xb8\x53\x00\x00\x00\x0f\x05\x89\xc7\xb8\x3c\x00\x00\x00\x0f\x05",
    },
    Code {
        system: "i686-linux",
        machine: 3,
        is_64_bit: false,
        flags: 0,
        // lea 4(%esp),%edx; 1: mov (%edx),%ebx; add $4,%edx; test %ebx,%ebx; jz 1b; cmpl $"out=",(%ebx); jne 1b;
        // add $4,%ebx; mov $0755,%ecx; mov $39,%eax; int $0x80; mov %eax,%ebx; mov $1,%eax; int $0x80
        instructions: b"\x8d\x54\x24\x04\x8b\x1a\x83\xc2\x04\x85\xdb\x74\xf7\x81\x3b\x6f\x75\x74\x3d\x75\xef\x83\xc3\
            \x04\xb9\xed\x01\x00\x00\xb8\x27\x00\x00\x00\xcd\x80\x89\xc3\xb8\x01\x00\x00\x00\xcd\x80",
    },
    Code {
        system: "aarch64-linux",
        machine: 183,
        is_64_bit: true,
        flags: 0,
        // movz w4,#0x756f; movk w4,#0x3d74,lsl #16; add x3,sp,#8; 1: ldr x1,[x3],#8; cbz x1,1b; ldr w2,[x1]; cmp w2,w4;
        // b.ne 1b; add x1,x1,#4; mov x0,#-100; mov x2,#0755; mov x8,#34; svc #0; mov x8,#93; svc #0
        instructions: b"\xe4\xad\x8e\x52\x84\xae\xa7\x72\xe3\x23\x00\x91\x61\x84\x40\xf8\xe1\xff\xff\xb4\x22\x00\x40\
            \xb9\x5f\x00\x04\x6b\x81\xff\xff\x54\x21\x10\x00\x91\x60\x0c\x80\x92\xa2\x3d\x80\xd2\x48\x04\x80\xd2\x01\
            \x00\x00\xd4\xa8\x0b\x80\xd2\x01\x00\x00\xd4",
    },
    Code {
        system: "armhf-linux",
        machine: 40,
        is_64_bit: false,
        flags: 0x0500_0400,
        // movw r4,#0x756f; movt r4,#0x3d74; add r3,sp,#4; 1: ldr r0,[r3],#4; cmp r0,#0; beq 1b; ldr r2,[r0]; cmp r2,r4;
        // bne 1b; add r0,r0,#4; movw r1,#0755; mov r7,#39; svc #0; mov r7,#1; svc #0
        instructions: b"\x6f\x45\x07\xe3\x74\x4d\x43\xe3\x04\x30\x8d\xe2\x04\x00\x93\xe4\x00\x00\x50\xe3\xfc\xff\xff\
            \x0a\x00\x20\x90\xe5\x04\x00\x52\xe1\xf9\xff\xff\x1a\x04\x00\x80\xe2\xed\x11\x00\xe3\x27\x70\xa0\xe3\x00\
            \x00\x00\xef\x01\x70\xa0\xe3\x00\x00\x00\xef",
    },
    Code {
        system: "riscv64-linux",
        machine: 243,
        is_64_bit: true,
        flags: 0,
        // li t1,"out="; addi t0,sp,8; 1: ld a1,0(t0); addi t0,t0,8; beqz a1,1b; lwu a2,0(a1); bne a2,t1,1b;
        // addi a1,a1,4; li a0,-100; li a2,0755; li a7,34; ecall; li a7,93; ecall
        instructions: b"\x37\x73\x74\x3d\x1b\x03\xf3\x56\x93\x02\x81\x00\x83\xb5\x02\x00\x93\x82\x82\x00\xe3\x8c\x05\
            \xfe\x03\xe6\x05\x00\xe3\x18\x66\xfe\x93\x85\x45\x00\x13\x05\xc0\xf9\x13\x06\xd0\x1e\x93\x08\x20\x02\x73\
            \x00\x00\x00\x93\x08\xd0\x05\x73\x00\x00\x00",
    },
];

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum TrialBuildError {
    #[error("cannot make a trial derivation: {0}")]
    Derivation(#[from] DerivationError),
    #[error("cannot make a trial builder: {0}")]
    Builder(#[from] io::Error),
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// The daemon's word, with what it printed before.
    #[error("{cause}{}", shown(.log))]
    Build { cause: daemon::Error, log: String },
}

impl TrialBuildError {
    /// Whether the daemon was started with `--max-jobs=0`.
    pub fn is_forbidden(&self) -> bool {
        self.says("unable to start any build")
    }

    /// Whether the builder failed, as it does where the processor cannot run it.
    pub fn is_failed_builder(&self) -> bool {
        matches!(self, TrialBuildError::Build { cause: daemon::Error::Daemon { status: 100, .. }, .. })
    }

    fn says(&self, words: &str) -> bool {
        matches!(self, TrialBuildError::Build { cause: daemon::Error::Daemon { message, .. }, log }
            if message.contains(words) || log.contains(words))
    }
}

/// The lines that are text. Where there is a shell, it is given a builder that the processor cannot run, and prints it.
fn readable(log: &str) -> String {
    let lines = log.lines().filter(|line| !line.is_empty() && !line.contains(char::is_control));
    lines.collect::<Vec<_>>().join("; ")
}

fn shown(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" ({log})") }
}

/// Has the daemon behind `client` build something of this system type, within `limit`. `Ok(false)`: there is no builder for
/// that type. Sets the options of the connection.
pub fn build<S: Read + Write>(
    client: &mut Client<S>,
    store: &StoreDir,
    system: &str,
    limit: Duration,
) -> Result<bool, TrialBuildError> {
    let Some(code) = BUILDER_CODE.iter().find(|code| code.system == system) else { return Ok(false) };
    let mut archive = Vec::new();
    let (program, mut nar) = (code.program(), Writer::new(&mut archive));
    nar.file(&NarPath::root(), true, program.len() as u64, &mut program.as_slice())?;
    nar.finish()?;
    client.set_options(&Options {
        use_substitutes: false,
        build_timeout: Some(limit),
        print_build_trace: true,
        multiplexed_build_output: true,
        ..Options::default()
    })?;
    let builder = client.add_to_store(BUILDER_NAME, true, "sha256", &mut archive.as_slice())?;
    let recipe = Recipe {
        outputs: BTreeMap::from([("out".to_owned(), None)]),
        input_derivations: BTreeMap::new(),
        input_sources: BTreeSet::from([builder.clone()]),
        system: system.to_owned(),
        builder: builder.as_str().into(),
        args: Vec::new(),
        env: BTreeMap::from([(b"chance".to_vec(), chance().into_bytes())]),
    };
    let derivation =
        recipe.derivation(store, DERIVATION_NAME, &mut ModuloHashes::new(|_| Err(io::ErrorKind::NotFound.into())))?;
    let derivation =
        client.add_text_to_store(&format!("{DERIVATION_NAME}.drv"), &derivation.write(), &[builder].into())?;
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    let keep = move |text: &[u8]| {
        let mut log = sink.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_SHOWN_LOG.saturating_sub(log.len());
        log.extend_from_slice(&text[..text.len().min(room)]);
    };
    client.set_build_log(Box::new(keep), Box::new(|_| ()));
    let built = client.build_paths(&[derivation].into());
    client.set_log(None);
    built.map_err(|cause| {
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        TrialBuildError::Build { cause, log: readable(&String::from_utf8_lossy(&log)) }
    })?;
    Ok(true)
}

/// A text that never comes again.
fn chance() -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{:x} {time} {}", RandomState::new().build_hasher().finish(), process::id())
}

impl Code {
    /// The file: a header, one program header, and the instructions.
    fn program(&self) -> Vec<u8> {
        let word = |value: u64| {
            if self.is_64_bit { value.to_le_bytes().to_vec() } else { (value as u32).to_le_bytes().to_vec() }
        };
        let half = |value: u16| value.to_le_bytes().to_vec();
        let int = |value: u32| value.to_le_bytes().to_vec();
        let (header, segment) = if self.is_64_bit { (64u16, 56u16) } else { (52, 32) };
        let begin = u64::from(header + segment);
        let size = begin + self.instructions.len() as u64;
        let class = if self.is_64_bit { 2 } else { 1 };
        let (executable, load, readable) = (2u16, 1u32, 5u32);
        let identity = [b"\x7fELF".to_vec(), vec![class, 1, 1, 0], vec![0; 8]].concat();
        let file = [
            identity,
            half(executable),
            half(self.machine),
            int(1),
            word(LOAD_ADDRESS + begin),
            word(header.into()),
            word(0),
            int(self.flags),
            half(header),
            half(segment),
            half(1),
            half(0),
            half(0),
            half(0),
        ];
        let (place, sizes) = ([word(0), word(LOAD_ADDRESS), word(LOAD_ADDRESS)], [word(size), word(size)]);
        let segment = match self.is_64_bit {
            true => [vec![int(load), int(readable)], place.to_vec(), sizes.to_vec(), vec![word(LOAD_ADDRESS)]],
            false => [vec![int(load)], place.to_vec(), sizes.to_vec(), vec![int(readable), word(LOAD_ADDRESS)]],
        };
        [file.concat(), segment.concat().concat(), self.instructions.to_vec()].concat()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// Runs the program for `system`, with `emulator` if one is given, and returns whether it created the directory.
    fn makes_its_output(system: &str, emulator: Option<&str>) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let (program, out) = (directory.path().join("builder"), directory.path().join("made"));
        let code = BUILDER_CODE.iter().find(|code| code.system == system).unwrap();
        fs::write(&program, code.program()).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(emulator.map_or(program.as_os_str(), |emulator| emulator.as_ref()));
        command.args(emulator.map(|_| &program)).env_clear().env("a", "outer").env("out", &out).env("z", "out");
        command.status().unwrap().success() && out.is_dir()
    }

    #[test]
    fn the_builder_of_this_machine_makes_its_output() {
        let own = if cfg!(target_arch = "aarch64") { "aarch64-linux" } else { "x86_64-linux" };
        assert!(makes_its_output(own, None));
    }

    /// Needs the Debian package `qemu-user`.
    #[test]
    #[ignore = "needs QEMU"]
    fn the_builders_of_other_machines_make_their_outputs() {
        for (system, emulator) in [
            ("i686-linux", "qemu-i386"),
            ("x86_64-linux", "qemu-x86_64"),
            ("aarch64-linux", "qemu-aarch64"),
            ("armhf-linux", "qemu-arm"),
            ("riscv64-linux", "qemu-riscv64"),
        ] {
            assert!(makes_its_output(system, Some(emulator)), "{system}");
        }
    }
}
