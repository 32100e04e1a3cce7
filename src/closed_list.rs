//! Closed lists: an enum whose every member has a public name and a sentence that explains it. Both are declared once,
//! here is what follows from that: label values, JSON, and the tables in `docs/`.

/// Declares a closed list: each member's doc comment, its name in Rust, its public name.
macro_rules! closed_list {
    (
        $(#[doc = $list_doc:literal])+
        pub enum $List:ident;
        $($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+
    ) => {
        $(#[doc = $list_doc])+
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        pub enum $List {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl $List {
            /// All of them, in the order of their declaration.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// The public name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }

        impl std::fmt::Display for $List {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
