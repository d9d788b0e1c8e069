use super::*;
use std::os::unix::fs::{PermissionsExt, chown};

fn tree() -> (tempfile::TempDir, User) {
    let root = tempfile::tempdir().unwrap();
    for directory in ["etc/guix", "var/guix"] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nguix-daemon:x:995:990::/:/no\n").unwrap();
    fs::write(root.path().join("etc/group"), "guix-daemon:x:990:\nkvm:x:109:x,guix-daemon\nold:x:7:guix\n").unwrap();
    let user = User::named(root.path(), "guix-daemon").unwrap();
    (root, user)
}

fn give(root: &Path, path: &str, mode: u32, uid: u32, gid: u32) {
    let path = below(root, Path::new(path));
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    chown(&path, Some(uid), Some(gid)).unwrap();
}

#[test]
fn users_have_groups() {
    let (root, user) = tree();
    assert_eq!(user, User { name: "guix-daemon".into(), uid: 995, groups: vec![990, 109] });
    assert_eq!(User::named(root.path(), "nobody"), None);
    assert_eq!(name_of(root.path(), 42), "42");
}

#[test]
fn a_permission_problem_has_a_remedy() {
    let (root, user) = tree();
    let root = root.path();
    let key = Path::new("/etc/guix/key");
    fs::write(below(root, key), "").unwrap();
    let find = |need| PermissionProblem::find(&user, root, key, need);
    for (mode, uid, gid, may_read) in [
        (0o600, 0, 0, false),
        (0o600, 995, 0, true),
        (0o640, 0, 109, true),
        (0o604, 0, 990, false),
        (0o604, 0, 0, true),
    ] {
        give(root, "/etc/guix/key", mode, uid, gid);
        assert_eq!(find(Need::ReadSecret).is_none(), may_read, "{mode:o} {uid} {gid}");
    }
    give(root, "/etc/guix/key", 0o600, 0, 0);
    let problem = find(Need::ReadSecret).unwrap();
    assert_eq!(problem.to_string(), "the user guix-daemon cannot read '/etc/guix/key' (owner root, mode 0600)");
    assert_eq!(problem.remedy(root).to_string(), "chown guix-daemon: '/etc/guix/key'");
    assert_eq!(find(Need::Read).unwrap().remedy(root).to_string(), "chmod a+r '/etc/guix/key'");
    give(root, "/etc/guix", 0o700, 0, 0);
    let problem = find(Need::Read).unwrap();
    assert_eq!(problem.to_string(), "the user guix-daemon cannot enter '/etc/guix' (owner root, mode 0700)");
    assert_eq!(problem.remedy(root).to_string(), "chmod a+x '/etc/guix'");
    let everything = User { name: "root".into(), uid: 0, groups: vec![0] };
    assert_eq!(PermissionProblem::find(&everything, root, key, Need::Own), None);
}

#[test]
fn a_missing_directory_needs_a_writable_parent() {
    let (root, user) = tree();
    let root = root.path();
    let find = || PermissionProblem::find(&user, root, Path::new("/var/guix/offload"), Need::Own);
    let problem = find().unwrap();
    assert!(
        problem.to_string().starts_with("the user guix-daemon cannot write to '/var/guix' (owner root"),
        "{problem}"
    );
    assert_eq!(problem.remedy(root).to_string(), "install -d -o guix-daemon -m 700 '/var/guix/offload'");
    give(root, "/var/guix", 0o755, 995, 990);
    assert_eq!(find(), None);
    fs::create_dir(below(root, Path::new("/var/guix/offload"))).unwrap();
    give(root, "/var/guix/offload", 0o700, 0, 0);
    assert_eq!(find().unwrap().remedy(root).to_string(), "chown -R guix-daemon: '/var/guix/offload'");
    give(root, "/var/guix/offload", 0o700, 995, 990);
    fs::create_dir(below(root, Path::new("/var/guix/offload/b1:22"))).unwrap();
    let problem = find().unwrap();
    assert!(problem.to_string().contains("cannot write to '/var/guix/offload/b1:22' (owner root"), "{problem}");
    assert_eq!(problem.remedy(root).to_string(), "chown -R guix-daemon: '/var/guix/offload'");
}

#[test]
fn a_user_may_be_known_by_its_number_alone() {
    let (root, user) = tree();
    assert_eq!(User::numbered(root.path(), 995, 7), user);
    assert_eq!(User::numbered(root.path(), 42, 7), User { name: "42".into(), uid: 42, groups: vec![7] });
    assert_eq!(User::numbered(root.path(), 0, 0).home(root.path()), Some("/root".into()));
    assert_eq!(User::numbered(root.path(), 42, 7).home(root.path()), None);
}
