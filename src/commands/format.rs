//! The form of a command's output.

use clap::ValueEnum;

/// The options that select the form.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct FormatArgs {
    /// The form of the output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format=json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl FormatArgs {
    /// Returns the form.
    pub fn get(self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

/// The forms of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table.
    Text,
    /// One object; with --watch, one object per line.
    Json,
    /// Records for the tools of GNU recutils.
    Recutils,
}
