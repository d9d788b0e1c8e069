//! Loading a machine file, and which files root does not evaluate.

use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::head::Engine;
use crate::machine_file::{Diagnostic, Extend, LoadContext, Pool, Report, load};
use crate::permissions::ownership::{self, Control};
use crate::permissions::{User, files};
use crate::shell::in_quotes;

/// Root's own cache. Below it are directories named after the state directories.
const ROOT_CACHE_DIRECTORY: &str = "/var/cache/offload";

impl Engine {
    /// Evaluates a machine file. `extend` may add functions to the interpreter before that.
    pub fn load_pool(&self, path: &Path, extend: Option<Extend>) -> Result<Pool, Report> {
        self.load_pool_with(path, &LoadContext { extend, ..self.load_context() })
    }

    /// Evaluates a machine file in this context.
    pub fn load_pool_with(&self, path: &Path, context: &LoadContext) -> Result<Pool, Report> {
        self.check_writers(path)?;
        load(path, context)
    }

    /// Refuses a machine file that unknown users can write, or the owner of the state, if this process is root and the
    /// owner is another user.
    pub fn check_writers(&self, path: &Path) -> Result<(), Report> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let (file, state) = (ownership::control(path), ownership::control(self.state.path()));
        if let Ok(Control::Others { path: shared }) = &file
            && path.exists()
        {
            let shared = in_quotes(&shared.to_string_lossy());
            let message = format!("root does not evaluate it: other users can write to {shared}");
            let hint = "keep it where only its owner can write, for example in /etc/guix, with the mode 0644";
            return Err(Diagnostic::error(path.display().to_string(), message).hint(hint).into());
        }
        let (Ok(Control::User { path: owned, uid, gid }), Ok(Control::User { uid: owner, .. })) = (file, state) else {
            return Ok(());
        };
        if uid != owner {
            return Ok(());
        }
        let user = User::numbered(Path::new("/"), uid, gid).name;
        let owned = in_quotes(&owned.to_string_lossy());
        let message = format!("root does not evaluate it: {owned} belongs to {user}, as the state does");
        let hint = format!("run guix-daemon as {user}; or, as root: `chown root: {owned}`");
        Err(Diagnostic::error(path.display().to_string(), message).hint(hint).into())
    }

    /// Returns the context in which machine files are evaluated.
    pub fn load_context(&self) -> LoadContext {
        LoadContext { cache: Some(self.cache()), ..LoadContext::default() }
    }

    /// Returns the directory that caches values of the machine file between processes. It is in the state, unless this
    /// process is root and another user could write there: then it is a directory of root's alone.
    fn cache(&self) -> PathBuf {
        let state = self.state.path();
        let cache = state.join("cache");
        match files::is_ours(&cache) {
            true => cache,
            false => Path::new(ROOT_CACHE_DIRECTORY).join(state.strip_prefix("/").unwrap_or(state)),
        }
    }
}
