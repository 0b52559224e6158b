//! The command blocks of a page of the documentation.

/// Blocks in the order of the page, each with the heading above it.
pub struct Page<'t> {
    blocks: Vec<(&'t str, &'t str)>,
}

impl<'t> Page<'t> {
    /// Reads the blocks between "```sh" and "```".
    pub fn of(text: &'t str) -> Page<'t> {
        let mut blocks = Vec::new();
        for section in text.split("\n## ").skip(1) {
            let heading = section.lines().next().unwrap_or_default();
            let parts = section.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```"));
            blocks.extend(parts.map(|(block, _)| (heading, block)));
        }
        Page { blocks }
    }

    /// A block by its place under its heading.
    #[track_caller]
    pub fn block(&self, heading: &str, n: usize) -> &'t str {
        let mut below = self.blocks.iter().filter(|(above, _)| *above == heading);
        below.nth(n).unwrap_or_else(|| panic!("the page has no block {n} under {heading}")).1
    }

    /// How many blocks are under a heading.
    pub fn blocks(&self, heading: &str) -> usize {
        self.blocks.iter().filter(|(above, _)| *above == heading).count()
    }
}
