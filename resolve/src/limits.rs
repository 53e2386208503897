//! Every bound in one place. Each is far above what configuration needs, and small enough that
//! hostile input costs at most about a second and some tens of megabytes.

/// Levels of nesting of a value, the pointer that places it included; and of a schema.
pub const MAX_DEPTH: usize = 64;
/// Weight of one document after YAML aliases are expanded: 16 a node, and the bytes of its text.
pub const MAX_DOCUMENT_WEIGHT: usize = 8 << 20;
/// Weight of all layers that one resolution merges, through every reference.
pub const MAX_TOTAL_WEIGHT: usize = 32 << 20;
/// Hops of configRef from the config that is resolved.
pub const MAX_HOPS: usize = 8;
/// Different configs that one resolution may reach by configRef.
pub const MAX_CONFIGS: usize = 64;
/// Layers of one merged value, those of referenced configs included.
pub const MAX_LAYERS: usize = 1024;
/// Problems that are listed; the rest is counted.
pub const MAX_PROBLEMS: usize = 32;
/// Characters of one problem's reason.
pub const MAX_REASON: usize = 600;
/// Bytes of a file's path.
pub const MAX_PATH: usize = 1024;
/// Bytes of one component of a path (Linux's `NAME_MAX`).
pub const MAX_COMPONENT: usize = 255;
/// What the CEL rules of one config may cost together: one unit a value that is visited.
pub const MAX_RULE_COST: u64 = 5_000_000;
/// Characters of one CEL rule.
pub const MAX_RULE_LENGTH: usize = 4096;
/// Levels of nesting of a CEL expression.
pub const MAX_RULE_DEPTH: u16 = 48;
/// Values that all applications of all subschemas in one validation may look at, in multiples of
/// the values there are.
pub const MAX_SCHEMA_VISITS: u64 = 20;
/// The same for a small value.
pub const MIN_SCHEMA_STEPS: u64 = 500_000;
/// Subschemas that may apply to the same value one inside the other ($ref, allOf …).
pub const MAX_SCHEMA_CHAIN: usize = 32;
/// Bytes of a compiled regular expression.
pub const MAX_REGEX_BYTES: usize = 1 << 20;
/// MiniJinja fuel of one template: one unit an instruction, or 64 bytes of text.
pub const TEMPLATE_FUEL: u64 = 1_000_000;
/// Levels of nesting of a template.
pub const TEMPLATE_DEPTH: usize = 64;
/// Tokens of one tag of a template, and branches of its ifs: each may be a level of recursion.
pub const MAX_TEMPLATE_CHAIN: usize = 1500;
