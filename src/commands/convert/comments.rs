//! The comments of the file to convert, which are kept where their place in the result is known.
//!
//! A comment before all code stays at the top. One inside the form of a machine, or directly above the form or line of
//! a machine, goes above its entry. The lines of all others are reported. In Scheme a comment begins with `;`, or is
//! between `#|` and `|#` or `#!` and `!#`; the commented-out form after `#;` is reported and not kept. In Nix's file a
//! comment begins with `#`.

use super::lua::Document;

/// One line of a comment.
#[derive(Debug, PartialEq)]
struct Comment {
    line: u32,
    /// Without the characters that begin it.
    text: String,
    /// Whether code is before it, on the same line.
    is_trailing: bool,
    /// The line of the next code; `None` at the end of the file.
    next: Option<u32>,
}

/// A form in parentheses, or a line of Nix's file.
#[derive(Debug, PartialEq)]
struct Form {
    first: u32,
    last: u32,
    is_machine: bool,
}

#[derive(Debug, Default)]
struct Scan {
    comments: Vec<Comment>,
    forms: Vec<Form>,
    /// The lines of commented-out forms.
    commented_out: Vec<u32>,
    /// The line of the first code.
    first_code: Option<u32>,
    /// The last line with code so far.
    last_code: u32,
}

impl Document {
    /// Adds the comments of a `machines.scm`.
    pub fn keep_scheme_comments(&mut self, text: &[u8]) {
        self.keep(scheme(&String::from_utf8_lossy(text)));
    }

    /// Adds the comments of a file of Nix.
    pub fn keep_nix_comments(&mut self, text: &[u8]) {
        self.keep(nix(&String::from_utf8_lossy(text)));
    }

    fn keep(&mut self, scan: Scan) {
        for comment in &scan.comments {
            let is_first = scan.first_code.is_none_or(|code| comment.line < code);
            match (is_first, self.entry_line(comment, &scan.forms)) {
                (true, _) => self.comments.push(comment.text.clone()),
                (false, Some(line)) => {
                    let is_meant =
                        |line_of: Option<u32>, file: &Option<String>| line_of == Some(line) && file.is_none();
                    if let Some(entry) = self.entries.iter_mut().find(|entry| is_meant(entry.line, &entry.file)) {
                        entry.comments.push(comment.text.clone());
                    }
                }
                (false, None) => self.lost_comments.push(comment.line),
            }
        }
        self.lost_comments.extend(scan.commented_out);
        self.lost_comments.sort_unstable();
        self.lost_comments.dedup();
    }

    /// Returns the line of the entry that a comment belongs to.
    fn entry_line(&self, comment: &Comment, forms: &[Form]) -> Option<u32> {
        let mut lines: Vec<u32> =
            self.entries.iter().filter(|entry| entry.file.is_none()).filter_map(|entry| entry.line).collect();
        lines.dedup();
        let is_machine = |form: &&Form| form.is_machine && lines.contains(&form.first);
        let inside = |form: &&Form| (form.first..=form.last).contains(&comment.line);
        if let Some(form) = forms.iter().filter(is_machine).filter(inside).max_by_key(|form| form.first) {
            return Some(form.first);
        }
        let next = comment.next.filter(|_| !comment.is_trailing)?;
        let outermost = forms.iter().filter(|form| form.first == next).max_by_key(|form| form.last)?;
        if outermost.is_machine {
            return lines.contains(&next).then_some(next);
        }
        let mut within = lines.iter().filter(|line| (outermost.first..=outermost.last).contains(line));
        match (within.next(), within.next()) {
            (Some(&line), None) => Some(line),
            _ => None,
        }
    }
}

impl Scan {
    fn code(&mut self, line: u32) {
        self.last_code = line;
        self.first_code.get_or_insert(line);
        self.comments.iter_mut().rev().take_while(|comment| comment.next.is_none()).for_each(|comment| {
            comment.next = Some(line);
        });
    }

    fn comment(&mut self, line: u32, text: &str) {
        let text = text.replace('\t', " ").trim().to_owned();
        if !text.is_empty() {
            self.comments.push(Comment { line, text, is_trailing: self.last_code == line, next: None });
        }
    }
}

fn nix(text: &str) -> Scan {
    let mut scan = Scan::default();
    for (line, content) in (1..).zip(text.lines()) {
        let (code, comment) = content.split_once('#').unwrap_or((content, ""));
        if !code.trim().is_empty() {
            scan.code(line);
            scan.forms.push(Form { first: line, last: line, is_machine: true });
        }
        scan.comment(line, comment.trim_start_matches('#'));
    }
    scan
}

fn scheme(text: &str) -> Scan {
    let mut scan = Scan::default();
    let mut open: Vec<usize> = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = match (first, rest.chars().nth(1)) {
            ('\n', _) => {
                line += 1;
                1
            }
            (';', _) => {
                let end = rest.find('\n').unwrap_or(rest.len());
                scan.comment(line, rest[..end].trim_start_matches(';'));
                end
            }
            ('#', Some(kind @ ('|' | '!'))) if block(rest, kind).is_some() => {
                let end = block(rest, kind).unwrap_or(rest.len());
                let inner = rest[..end].trim_matches(['#', kind]);
                for (number, text) in (line..).zip(inner.split('\n')) {
                    scan.comment(number, text);
                }
                end
            }
            ('#', Some(';')) => {
                scan.commented_out.push(line);
                2
            }
            _ if first.is_whitespace() => first.len_utf8(),
            _ => {
                scan.code(line);
                code(rest, line, &mut scan.forms, &mut open)
            }
        };
        line += rest[..length].matches('\n').count() as u32 - u32::from(first == '\n');
        rest = &rest[length..];
    }
    scan
}

/// Returns the end of a block comment.
fn block(rest: &str, kind: char) -> Option<usize> {
    let end = if kind == '|' { "|#" } else { "!#" };
    Some(2 + rest[2..].find(end)? + 2)
}

/// Reads a piece of code, and returns its length.
fn code(rest: &str, line: u32, forms: &mut Vec<Form>, open: &mut Vec<usize>) -> usize {
    let first = rest.chars().next().unwrap_or_default();
    match first {
        '(' | '[' => {
            let word = rest[1..].trim_start();
            let is_machine = word
                .strip_prefix("build-machine")
                .is_some_and(|rest| rest.starts_with(|next: char| next.is_whitespace() || next == '('));
            open.push(forms.len());
            forms.push(Form { first: line, last: line, is_machine });
        }
        ')' | ']' => {
            if let Some(form) = open.pop().and_then(|number| forms.get_mut(number)) {
                form.last = line;
            }
        }
        '"' => {
            let mut is_escaped = false;
            let end = rest[1..].find(|next: char| {
                let is_end = next == '"' && !is_escaped;
                is_escaped = next == '\\' && !is_escaped;
                is_end
            });
            return end.map_or(rest.len(), |end| end + 2);
        }
        // A character such as #\; or #\".
        '#' if rest[1..].starts_with('\\') => return 2 + rest[2..].chars().next().map_or(0, char::len_utf8),
        _ => {}
    }
    first.len_utf8()
}

#[cfg(test)]
mod tests {
    use super::super::lua::Entry;
    use super::*;

    fn kept(document: &Document) -> (Vec<String>, Vec<Vec<String>>, Vec<u32>) {
        let entries = document.entries.iter().map(|entry| entry.comments.clone()).collect();
        (document.comments.clone(), entries, document.lost_comments.clone())
    }

    fn document(lines: &[u32]) -> Document {
        let entries = lines.iter().map(|&line| Entry { line: Some(line), ..Entry::default() }).collect();
        Document::new("m.scm".to_owned(), &[], entries)
    }

    #[test]
    fn comments_of_scheme_go_to_their_machines_or_are_reported() {
        let text = "\
;; Machines of the lab.
#| Ask Ada
   before changes. |#
(define semi #\\;) ; a character
(define text \"; no \\\" comment\") ; a text
;; The fast one.
(define fast
  (build-machine ; in the cellar
   (name \"fast\")))
; of all
(list fast
      ;; slow, #| but quiet
      (build-machine
       (name \"slow\") ; on the roof
       #;(features
          '(\"kvm\"))
       (speed 1)) ; gone
      #;(build-machine (name \"old\"))
      (build-machine (name \"third\")))
;; end
";
        let mut document = document(&[8, 13, 19]);
        document.keep_scheme_comments(text.as_bytes());
        let (top, entries, lost) = kept(&document);
        assert_eq!(top, ["Machines of the lab.", "Ask Ada", "before changes."]);
        let expected: [&[&str]; 3] =
            [&["The fast one.", "in the cellar"], &["slow, #| but quiet", "on the roof", "gone"], &[]];
        assert_eq!(entries, expected);
        assert_eq!(lost, [4, 5, 10, 15, 18, 20]);
    }

    #[test]
    fn comments_of_nix_go_to_the_line_below() {
        let text = "# Top\nssh://a x86_64-linux # first\n\n## second\n  # too\nssh://b x86_64-linux\n# end\n";
        let mut document = document(&[2, 6]);
        document.keep_nix_comments(text.as_bytes());
        let expected: [&[&str]; 2] = [&["first"], &["second", "too"]];
        assert_eq!(
            kept(&document),
            (
                vec!["Top".to_owned()],
                expected.map(|one| one.iter().map(|text| (*text).to_owned()).collect()).to_vec(),
                vec![7]
            )
        );
    }
}
