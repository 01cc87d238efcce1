//! A table of the page.

use maud::{Markup, html};

/// Returns a section with a table. `heads` are the columns, each with true for numbers.
pub(super) fn table(id: &str, title: &str, caption: &str, heads: &[(&str, bool)], rows: &Markup) -> Markup {
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (title) }
            div.wide role="region" aria-label=(format!("{title}: table")) tabindex="0" {
                table {
                    caption { (caption) }
                    thead { tr { @for (head, is_number) in heads { th scope="col" .number[*is_number] { (head) } } } }
                    tbody { (rows) }
                }
            }
        }
    }
}
