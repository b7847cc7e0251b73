//! What may be shown of text that came from outside. Escaping is maud's; this is about what escaping leaves.

/// The most characters of a name that are shown.
const LONGEST: usize = 64;

/// A name as one line of at most 64 characters: white space is one space, what cannot be seen or turns the direction
/// of reading is left out. Empty if nothing remains to be seen.
pub(super) fn shown_text(text: &str) -> String {
    let mut shown = String::new();
    let mut length = 0;
    let mut gap = false;
    for character in text.chars() {
        if character.is_whitespace() {
            gap = length > 0;
            continue;
        }
        if is_hidden(character) {
            continue;
        }
        if length + usize::from(gap) >= LONGEST {
            shown.push('…');
            break;
        }
        if gap {
            shown.push(' ');
            length += 1;
        }
        shown.push(character);
        length += 1;
        gap = false;
    }
    if shown.chars().all(is_joiner) { String::new() } else { shown }
}

/// A code that is no more than a code.
pub(super) fn shown_code(code: &str) -> Option<&str> {
    let is_code = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    ((1..=64).contains(&code.len()) && code.bytes().all(is_code)).then_some(code)
}

/// A link to a page of the web. The allow list decides which; a scheme that runs code is refused here again.
pub(super) fn shown_link(link: &str) -> Option<&str> {
    (link.starts_with("https://") || link.starts_with("http://")).then_some(link)
}

/// Controls of characters and of direction (Unicode TR 9, section 2), and characters that take up room or none but
/// show nothing.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Persian, Indic scripts and emoji need these between characters; alone they show nothing.
const fn is_joiner(character: char) -> bool {
    matches!(character, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}')
}
