//! `shared` of the pool: the engine that several heads share, and what happens while it is down.

use super::decode;
use super::diagnostic::Severity;
use super::fields::{Fields, Finding, FindingLocation, Subject};
use super::machine_fields::Entry;
use super::schema::{self, Field, FieldValues};
use crate::lua::values::{self, quote};
use crate::machine::{EngineUrl, SharedPool, UrlError, WhenDown};
use serde_json::json;

type SharedField = Field<SharedPool>;

/// The longest name of a pool, in bytes.
const MAX_NAME: usize = 100;

/// The fields of `shared`.
pub const SHARED_FIELDS: &[Field<SharedPool>] = &[
    SharedField::new(
        "url",
        "string",
        "The URL of a PostgreSQL database, such as `\"postgresql://offload@db.lan/offload?sslmode=verify-full\"`. Its \
         parameters are those of libpq. It has no password.",
    )
    .required()
    .read(|f, s| url(f).map(|url| s.url = url))
    .json(|s| json!(s.url)),
    SharedField::new(
        "name",
        "string",
        "The name of the pool. Heads with the same name in the same database share their machines.",
    )
    .read(|f, s| name(f).map(|name| s.name = name))
    .json(|s| json!(s.name)),
    SharedField::new(
        "when_down",
        "\"share\"|\"all\"|\"local\"",
        "The slots that this head uses while the database cannot be used. `\"share\"`: it uses the slots of each machine divided \
         by the number of heads that were last seen, and one at least. `\"all\"`: it uses all slots. `\"local\"`: it \
         builds locally what the daemon offers to build and its system can, and the rest as with `\"share\"`.",
    )
    .read(|f, s| when_down(f).map(|when_down| s.when_down = when_down))
    .json(|s| json!(s.when_down.name())),
    SharedField::new(
        "password_file",
        "string",
        "The file with the password of the account, alone in it. The daemon's user must be able to read it. Without \
         this field, the password is in the variable `PGPASSWORD` of guix-daemon, or there is none.",
    )
    .read(|f, s| decode::file_name(f).map(|file| s.password_file = Some(file)))
    .json(|s| json!(s.password_file)),
];

/// Reads `shared` of the pool.
pub(super) fn pool(fields: &mut Fields) -> Option<SharedPool> {
    let table = fields.table()?;
    if !cfg!(feature = "shared") {
        let hint = "install a build with the cargo feature 'shared'";
        fields.error("this build of offload cannot share a pool", Some(hint.to_owned()));
        return None;
    }
    let mut shared = SharedPool::default();
    let place = FindingLocation::PoolTable("shared");
    let home = fields.home;
    let mut inner = Fields::new(&table, place, Subject::Table("shared".to_owned()), fields.findings);
    inner.home = home;
    schema::read(SHARED_FIELDS, &mut inner, &mut shared).then_some(shared)
}

/// Returns the warning about machines on demand, which a head stops although other heads use them.
pub(super) fn on_demand_finding(machines: &[Entry]) -> Option<Finding> {
    let machine = &machines.iter().find(|entry| entry.machine.on_demand.is_some())?.machine;
    let message = format!(
        "shared: '{}' is on demand, and a head stops it although builds of other heads run there",
        machine.name
    );
    let hint = Some("leave out on_demand, or keep the machine in the machine file of one head".to_owned());
    let place = FindingLocation::PoolTable("shared");
    Some(Finding { severity: Severity::Warning, place, field: None, message, hint, missing: false })
}

/// Returns `shared` for `offload eval --json`.
pub(super) fn to_json(shared: Option<&SharedPool>) -> serde_json::Value {
    shared.map_or(serde_json::Value::Null, |shared| json!(FieldValues(SHARED_FIELDS, shared)))
}

fn url(fields: &mut Fields) -> Option<String> {
    let url = fields.string("the URL of a PostgreSQL database")?;
    match EngineUrl::parse(&url) {
        Ok(_) => Some(url),
        Err(error) => {
            let hint = match error {
                UrlError::Password => Some("write it into a file, and name the file: password_file = \"…\""),
                UrlError::Scheme | UrlError::Database => Some("such as \"postgresql://offload@db.lan/offload\""),
                UrlError::Mode(_) | UrlError::Invalid(_) => None,
            };
            fields.error(error.to_string(), hint.map(str::to_owned));
            None
        }
    }
}

fn name(fields: &mut Fields) -> Option<String> {
    let fits = |name: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(is_plain)
    };
    fields.read("a name of letters, digits and - _ .", |value| values::string(value).filter(fits))
}

fn when_down(fields: &mut Fields) -> Option<WhenDown> {
    let names = WhenDown::ALL.map(|one| quote(one.name()));
    let expected = format!("{}, {} or {}", names[0], names[1], names[2]);
    fields.read(&expected, |value| {
        let text = values::string(value)?;
        WhenDown::ALL.into_iter().find(|one| one.name() == text)
    })
}
