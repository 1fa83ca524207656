//! Guests' words made fit for logs, terminals and error messages.

/// `text` without what could act on a terminal or forge a line: control characters and the marks that turn the direction
/// of writing become U+FFFD. Cut to `bytes_max` bytes at a character's start.
pub(crate) fn clean(text: &str, bytes_max: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        let c = match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                char::REPLACEMENT_CHARACTER
            }
            c => c,
        };
        if clean.len() + c.len_utf8() > bytes_max {
            break;
        }
        clean.push(c);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn nothing_that_acts_on_a_terminal_survives() {
        let hostile = "a\x1b[2Jb\r\nc\u{9b}31m\u{202e}d\0é\u{7f}";
        let got = clean(hostile, 100);
        assert_eq!(got, "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}31m\u{fffd}d\u{fffd}é\u{fffd}");
        assert!(!got.chars().any(char::is_control));
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(clean("ééé", 3), "é");
        assert_eq!(clean(&"\0".repeat(10_000), 1024).len(), 1023);
        assert_eq!(clean("abc", 3), "abc");
    }
}
