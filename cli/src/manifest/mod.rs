//! Manifests, read offline: YAML with the place of everything in it ([`yaml`]), the objects it
//! holds ([`objects`]), what the API server would refuse ([`crd`]), and where in a file a problem
//! of resolving belongs ([`places`]).

pub mod crd;
pub mod files;
pub mod objects;
pub mod places;
pub mod yaml;
