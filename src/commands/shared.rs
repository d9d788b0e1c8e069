//! `offload shared init|status`: sets up the database of a pool that several heads share, and shows what is in it.
//!
//! `status --json` prints one object: `version` (1), `file`, `name`, and `pool`, with `server`, `version` and
//! `needs_version` (of the tables), `clock_ahead` (ms), `is_pooled`, `free_connections`, and the lists `heads` (`name`, `program`,
//! `seen`), `holders` and `waiting` (`host`, `head`, `derivation`, `user`, `since`; holders `slot`, too), and `drains`
//! (`host`, `head`, `since`, `until`). Times are milliseconds since 1970.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::failure::{CommandError, CommandResult};
use super::machines::{MachineFileArgs, load};
use super::table::{self, Heading};
use super::terminal::{self, HumanDuration, plain};
use crate::engine::Engine;
use crate::exit::ExitStatus;
use crate::machine::SharedPool;
use crate::shared::schema::VERSION;
use crate::shared::{self, Overview};
use crate::state::health;

/// The version of the JSON form. It increases if a field is removed or gets another meaning, not if a field is added.
const JSON_VERSION: u32 = 1;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[arg(value_enum)]
    action: Action,
    /// Print JSON; for `status`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: MachineFileArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Create the tables, or bring them to the version of this program.
    Init,
    /// Show the heads, the builds that have slots, and those that wait.
    Status,
}

impl Args {
    /// Returns the machine file, if one is named.
    pub fn machine_file(&self) -> Option<&Path> {
        self.file.named()
    }
}

/// Runs `offload shared`.
pub fn run(args: &Args, engine: &Engine, out: &mut dyn Write) -> CommandResult {
    let (path, pool) = load(args.file.named(), engine)?;
    let Some(shared) = &pool.settings.shared else {
        let message = format!("{}: the pool has no field 'shared'", path.display());
        let hint = "add shared = { url = \"postgresql://…\" } to the table that the file returns";
        return Err(CommandError::new(ExitStatus::MachineFile, message).with_hint(Some(hint.to_owned())));
    };
    let printed = match args.action {
        Action::Init => {
            let before = shared::init(shared).map_err(failed)?;
            writeln!(out, "{}", initialized(shared, before))
        }
        Action::Status => {
            let overview = shared::overview(shared).map_err(failed)?;
            match args.json {
                true => write_json(&path, shared, &overview, out),
                false => write(shared, &overview, out),
            }
        }
    };
    printed.map_err(|error| CommandError::output("the result", &error))?;
    Ok(ExitStatus::Success)
}

fn failed(error: shared::Error) -> CommandError {
    CommandError::failure(&error).with_hint(error.hint().map(str::to_owned))
}

fn initialized(shared: &SharedPool, before: i32) -> String {
    let name = &shared.name;
    match before {
        0 => format!("the database of the shared pool '{name}' is set up (version {VERSION})"),
        VERSION => format!("the database of the shared pool '{name}' was set up already (version {VERSION})"),
        before => {
            format!("the database of the shared pool '{name}' had version {before}, and has version {VERSION} now")
        }
    }
}

fn write_json(path: &Path, shared: &SharedPool, overview: &Overview, out: &mut dyn Write) -> io::Result<()> {
    let mut pool = json!(overview);
    if let Some(pool) = pool.as_object_mut() {
        pool.insert("needs_version".to_owned(), json!(VERSION));
    }
    let object =
        json!({ "version": JSON_VERSION, "file": path.display().to_string(), "name": shared.name, "pool": pool });
    terminal::write_json(&object, true, out)
}

fn write(shared: &SharedPool, overview: &Overview, out: &mut dyn Write) -> io::Result<()> {
    let Overview { server, version, heads, holders, waiting, drains, .. } = overview;
    writeln!(out, "{}: version {version}, PostgreSQL {}", shared.name, plain(server))?;
    if *version != VERSION {
        return writeln!(out, "this offload needs version {VERSION}: run `offload shared init`");
    }
    let now = health::now();
    let ago = |time: u64| format!("{} ago", HumanDuration(now.saturating_sub(time) / 1000));
    let user = |user: &Option<String>| user.clone().unwrap_or_else(|| "-".to_owned());
    let mut print = |headings: &[Heading], rows: Vec<Vec<String>>| -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut table = table::table(headings);
        for row in rows {
            table.add_row(row.iter().map(|cell| plain(cell).into_owned()));
        }
        writeln!(out)?;
        table::lines(&table).iter().try_for_each(|line| writeln!(out, "{line}"))
    };
    let rows = heads.iter().map(|head| vec![head.name.clone(), head.program.clone(), ago(head.seen)]);
    print(&[Heading::Text("HEAD"), Heading::Text("OFFLOAD"), Heading::Text("LAST SEEN")], rows.collect())?;
    let rows = holders.iter().map(|holder| {
        let (slot, user) = (holder.slot.to_string(), user(&holder.user));
        vec![holder.host.clone(), slot, holder.head.clone(), user, ago(holder.since), holder.derivation.clone()]
    });
    let headings = ["HOST", "SLOT", "HEAD", "USER", "SINCE", "BUILDS"].map(Heading::Text);
    print(&headings, rows.collect())?;
    let rows = waiting.iter().map(|waiting| {
        let user = user(&waiting.user);
        vec![waiting.host.clone(), waiting.head.clone(), user, ago(waiting.since), waiting.derivation.clone()]
    });
    print(&["HOST", "HEAD", "USER", "SINCE", "WAITS TO BUILD"].map(Heading::Text), rows.collect())?;
    let rows = drains.iter().map(|drain| {
        let end = drain
            .until
            .map_or("-".to_owned(), |until| format!("in {}", HumanDuration(until.saturating_sub(now) / 1000)));
        vec![drain.host.clone(), drain.head.clone(), ago(drain.since), end]
    });
    print(&["DRAINED", "BY", "SINCE", "ENDS"].map(Heading::Text), rows.collect())
}
