//! From uploaded bytes to something that can be run.
//!
//! Promises: what is taken exports `reconcile` as `wit/reconciler.wit` has it,
//! and `samples` and `data-type` as there or not at all; it imports nothing but
//! names of types. What is refused is refused with the import or export that is
//! at fault.

use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower,
};
use wasmtime::{Engine, Module};
use wit_component::ComponentEncoder;

use super::abi::{self, Description};
use super::failure::{InvalidModule, one_line};
use super::run::Guest;
use crate::protocol::catalog::{Digest, ModuleKind};
use crate::reconcile::ModuleFigures;

/// The largest module that is taken, in bytes. The built-ins have some 100 kB;
/// a module travels to every node and is held in memory while it does.
pub const MAX_MODULE_BYTES: u64 = 16 << 20;

/// The preamble of a core module and of a component: magic, version, layer.
const CORE_PREAMBLE: &[u8; 8] = b"\0asm\x01\0\0\0";
const COMPONENT_PREAMBLE: &[u8; 8] = b"\0asm\x0d\0\x01\0";

/// A module that can be run.
pub struct Loaded {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) description: Description,
    pub(super) pre: InstancePre<Guest>,
    pub(super) exports: Exports,
    pub(super) counters: Counters,
}

/// Where the functions are.
pub(super) struct Exports {
    pub describe: ComponentExportIndex,
    pub fold: ComponentExportIndex,
    pub generate: Option<ComponentExportIndex>,
    pub data_type: Option<DataTypeExports>,
}

pub(super) struct DataTypeExports {
    pub apply: ComponentExportIndex,
    pub render: ComponentExportIndex,
    pub operations: ComponentExportIndex,
}

#[derive(Default)]
pub(super) struct Counters {
    pub folds: AtomicU64,
    pub failures: AtomicU64,
    pub fuel: AtomicU64,
    pub fuel_peak: AtomicU64,
    pub memory_peak: AtomicU64,
}

impl Loaded {
    /// The SHA-256 of the bytes as they were uploaded.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many bytes were uploaded.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What the module says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Whether the module takes operations.
    pub fn kind(&self) -> ModuleKind {
        match self.exports.data_type {
            Some(_) => ModuleKind::DataType,
            None => ModuleKind::Reconciler,
        }
    }

    /// Whether the module makes samples for the law check.
    pub fn has_samples(&self) -> bool {
        self.exports.generate.is_some()
    }

    /// The most that any one call has used: fuel, and bytes of memory.
    pub fn peaks(&self) -> (u64, u64) {
        (
            self.counters.fuel_peak.load(Ordering::Relaxed),
            self.counters.memory_peak.load(Ordering::Relaxed),
        )
    }

    /// What it has done since it was loaded.
    pub fn figures(&self) -> ModuleFigures {
        ModuleFigures {
            folds: self.counters.folds.load(Ordering::Relaxed),
            failures: self.counters.failures.load(Ordering::Relaxed),
            fuel: self.counters.fuel.load(Ordering::Relaxed),
        }
    }
}

/// The component that the bytes are, or that is made of them.
pub(super) fn encode(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, InvalidModule> {
    if bytes.len() as u64 > MAX_MODULE_BYTES {
        return Err(InvalidModule::TooLarge {
            size: bytes.len() as u64,
            limit: MAX_MODULE_BYTES,
        });
    }
    if bytes.starts_with(COMPONENT_PREAMBLE) {
        return Ok(bytes.to_vec());
    }
    if !bytes.starts_with(CORE_PREAMBLE) {
        return Err(InvalidModule::NotWasm);
    }
    // The encoder takes a valid module for granted.
    Module::validate(engine, bytes)
        .map_err(|error| InvalidModule::NotCompilable(one_line(&format!("{error:#}"))))?;
    // A module that names its imports but has no type for them is refused here,
    // in the encoder's words, which name the import.
    ComponentEncoder::default()
        .module(bytes)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|error| InvalidModule::NotEncodable(one_line(&format!("{error:#}"))))
}

/// Compiles a component, as it is or encoded before.
pub(super) fn compile(engine: &Engine, component: &[u8]) -> Result<Component, InvalidModule> {
    Component::from_binary(engine, component)
        .map_err(|error| InvalidModule::NotCompilable(one_line(&format!("{error:#}"))))
}

/// Checks imports and exports, and prepares the component to be instantiated.
pub(super) fn link(
    engine: &Engine,
    component: &Component,
) -> Result<(InstancePre<Guest>, Exports), InvalidModule> {
    check_imports(engine, component)?;
    let interface = Interface {
        component,
        name: abi::RECONCILE,
    };
    if !interface.is_there() {
        return Err(InvalidModule::MissingExport(abi::RECONCILE));
    }
    let mut exports = Exports {
        describe: interface.func::<abi::DescribeParams, abi::DescribeResult>("describe")?,
        fold: interface.func::<abi::FoldParams, abi::FoldResult>("fold")?,
        generate: None,
        data_type: None,
    };
    let interface = Interface {
        name: abi::SAMPLES,
        ..interface
    };
    if interface.is_there() {
        exports.generate =
            Some(interface.func::<abi::GenerateParams, abi::GenerateResult>("generate")?);
    }
    let interface = Interface {
        name: abi::DATA_TYPE,
        ..interface
    };
    if interface.is_there() {
        exports.data_type = Some(DataTypeExports {
            apply: interface.func::<abi::ApplyParams, abi::ApplyResult>("apply")?,
            render: interface.func::<abi::RenderParams, abi::RenderResult>("render")?,
            operations: interface.func::<abi::GenerateParams, abi::GenerateResult>("operations")?,
        });
    }
    let pre = Linker::new(engine)
        .instantiate_pre(component)
        .map_err(|error| InvalidModule::Import(one_line(&format!("{error:#}"))))?;
    Ok((pre, exports))
}

/// Refuses every import but definitions of types: a component that exports
/// functions over the contract's records names the interface that they come from
/// among its imports, with types and nothing else in it.
fn check_imports(engine: &Engine, component: &Component) -> Result<(), InvalidModule> {
    let ty = component.component_type();
    for (name, import) in ty.imports(engine) {
        match import.ty {
            ComponentItem::Type(_) => {}
            ComponentItem::ComponentInstance(instance) => {
                let wanted: Vec<&str> = instance
                    .exports(engine)
                    .filter(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
                    .map(|(item, _)| item)
                    .collect();
                if !wanted.is_empty() {
                    return Err(InvalidModule::Import(one_line(&format!(
                        "{name} ({})",
                        wanted.join(", ")
                    ))));
                }
            }
            _ => return Err(InvalidModule::Import(one_line(name))),
        }
    }
    Ok(())
}

/// One exported interface.
#[derive(Clone, Copy)]
struct Interface<'a> {
    component: &'a Component,
    name: &'static str,
}

impl Interface<'_> {
    fn is_there(&self) -> bool {
        self.component.get_export_index(None, self.name).is_some()
    }

    /// Where a function of the interface is, once its type is known to be right.
    fn func<Params, Return>(&self, name: &str) -> Result<ComponentExportIndex, InvalidModule>
    where
        Params: ComponentNamedList + Lower,
        Return: ComponentNamedList + Lift,
    {
        let mistyped = |reason: String| InvalidModule::MistypedExport {
            export: format!("{} {name}", self.name),
            reason,
        };
        let found = self
            .component
            .get_export(None, self.name)
            .and_then(|(_, instance)| self.component.get_export(Some(&instance), name));
        let (item, index) = found.ok_or_else(|| mistyped("it is missing".to_owned()))?;
        let ComponentItem::ComponentFunc(func) = item else {
            return Err(mistyped("it is no function".to_owned()));
        };
        self.typecheck::<Params, Return>(&func)
            .map_err(|error| mistyped(one_line(&format!("{error:#}"))))?;
        Ok(index)
    }

    fn typecheck<Params, Return>(&self, func: &ComponentFunc) -> wasmtime::Result<()>
    where
        Params: ComponentNamedList + Lower,
        Return: ComponentNamedList + Lift,
    {
        func.typecheck::<Params, Return>(&self.component.component_type().instance_type())
    }
}
