//! The manual page of the machine file, made from the tables of fields.

use super::page::Page;
use crate::machine_file::{
    BUILD_MACHINE_FIELDS, Field, LIMITS_FIELDS, LOCAL_MACHINE_FIELDS, POOL_FIELDS, REQUEST_FIELDS, STATUS_FIELDS,
};

/// The name of the page's file.
pub const NAME: &str = "offload-machines.lua.5";

const EXAMPLE: &str = include_str!("../../../examples/features.lua");

/// Returns the page in roff.
pub fn page() -> String {
    let mut page = Page::default();
    page.title("offload-machines.lua", "5");
    page.section("NAME");
    page.paragraph("offload-machines.lua - the machine file of offload");
    page.section("DESCRIPTION");
    page.paragraph(
        "The machine file lists the build machines and decides which of them builds what. It is a program in Lua 5.4, \
         */etc/guix/machines.lua* unless `OFFLOAD_MACHINE_FILE` names another. It returns a table: the machines as a list, the \
         settings of the pool as named fields. The hook evaluates it for each request of the daemon, within limits of time and \
         memory. If the file does not exist, there are no machines. `offload eval` checks the file, `offload test` its machines, \
         and `offload explain` shows where a build would go.",
    );
    page.section("BUILD MACHINES");
    page.paragraph("The fields of `build_machine { … }`:");
    fields(&mut page, BUILD_MACHINE_FIELDS);
    page.section("THE HEAD");
    page.paragraph(
        "With a `local_machine { … }` in the list the head takes part in the scoring. If it has the best score, the head builds. \
         Its fields:",
    );
    fields(&mut page, LOCAL_MACHINE_FIELDS);
    page.section("THE POOL");
    page.paragraph("The named fields of the table that the file returns:");
    fields(&mut page, POOL_FIELDS);
    page.section("LIMITS");
    page.paragraph("The fields of `limits`:");
    fields(&mut page, LIMITS_FIELDS);
    page.section("REQUESTS");
    page.paragraph("The fields of `request`, the first argument of `accepts` and `score`:");
    fields(&mut page, REQUEST_FIELDS);
    page.section("STATUS");
    page.paragraph("The fields of `status`, the third argument of `score`. Each may be nil:");
    fields(&mut page, STATUS_FIELDS);
    page.section("EXAMPLE");
    page.example(EXAMPLE);
    page.section("SEE ALSO");
    page.paragraph("`offload`(1), `offload-eval`(1), `offload-explain`(1), `offload-test`(1)");
    page.whole()
}

fn fields<T: Default>(page: &mut Page, schema: &[Field<T>]) {
    for field in schema {
        let note = match field.default_text() {
            Some(default) => format!(", default {default}"),
            None if field.required => ", required".to_owned(),
            None => String::new(),
        };
        page.item(&format!("`{}` ({}{note})", field.name, field.kind()), field.about);
    }
}
