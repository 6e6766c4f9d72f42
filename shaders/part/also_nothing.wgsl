// Rows go to one place.
const ALSO: bool = false;

fn store_also(place: u32, word: u32) {}
