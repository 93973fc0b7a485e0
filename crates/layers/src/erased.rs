//! The one place where a module's type is erased.
//!
//! Burn's [`Module`] is not object-safe: its visitors and mappers have methods that are generic over
//! a tensor's rank. A backbone that is to carry any method's state, methods of other crates included,
//! needs trait objects all the same. [`ErasedModule`] is the object-safe half of `Module`, given to every
//! module for nothing, and [`Attached`] is a trait object that is a `Module` again.

use std::any::Any;
use std::fmt::{Debug, Formatter, Result as FmtResult};
use std::ops::{Deref, DerefMut};

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor};
use dyn_clone::DynClone;

/// The object-safe half of [`Module`]. Implemented for every module; never by hand.
pub trait ErasedModule: Debug + DynClone + Send + Sync {
    /// The module itself, for whoever knows its type: a method's policy and its own state.
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// See [`Module::visit`].
    fn visit_erased(&self, visitor: &mut dyn ErasedVisitor);
    /// See [`Module::map`]; in place, because a trait object cannot be returned by value.
    fn map_erased(&mut self, mapper: &mut dyn ErasedMapper);
    /// See [`Module::to_device`].
    fn to_device_erased(&mut self, device: &Device);
    /// See [`Module::fork`].
    fn fork_erased(&mut self, device: &Device);
    /// See [`Module::train`].
    fn train_erased(&mut self);
    /// See [`Module::valid`].
    fn valid_erased(&mut self);
    /// See [`Module::materialize`].
    fn materialize_erased(&mut self);
    /// See [`Module::collect_devices`].
    fn collect_devices_erased(&self, devices: Vec<Device>) -> Vec<Device>;
}

dyn_clone::clone_trait_object!(ErasedModule);

impl<M: Module + Sync + 'static> ErasedModule for M {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn visit_erased(&self, visitor: &mut dyn ErasedVisitor) {
        self.visit(&mut Erase(visitor));
    }

    fn map_erased(&mut self, mapper: &mut dyn ErasedMapper) {
        consume(self, |module| module.map(&mut Erase(mapper)));
    }

    fn to_device_erased(&mut self, device: &Device) {
        consume(self, |module| module.to_device(device));
    }

    fn fork_erased(&mut self, device: &Device) {
        consume(self, |module| module.fork(device));
    }

    fn train_erased(&mut self) {
        consume(self, Module::train);
    }

    fn valid_erased(&mut self) {
        *self = self.valid();
    }

    fn materialize_erased(&mut self) {
        consume(self, Module::materialize);
    }

    fn collect_devices_erased(&self, devices: Vec<Device>) -> Vec<Device> {
        self.collect_devices(devices)
    }
}

/// Replaces `module` by what `change` makes of it, without a second handle on its tensors: with one, a mapper could not
/// change a tensor in place, and an optimizer's step would hold the old weights of the whole network beside the new.
///
/// A panic in `change` has lost the module that `module` is to hold again: it ends the process, after its message.
fn consume<M>(module: &mut M, change: impl FnOnce(M) -> M) {
    replace_with::replace_with_or_abort(module, change);
}

/// A trait object that is a [`Module`]: what a site holds of a method, or a model of its backbone.
pub struct Attached<T: ?Sized>(Box<T>);

impl<T: ?Sized> Attached<T> {
    /// Wraps a boxed trait object.
    pub fn new(inner: Box<T>) -> Self {
        Self(inner)
    }
}

impl<T: ?Sized> Deref for Attached<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for Attached<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: ?Sized + DynClone> Clone for Attached<T> {
    fn clone(&self) -> Self {
        Self(dyn_clone::clone_box(&*self.0))
    }
}

impl<T: ?Sized + Debug> Debug for Attached<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        self.0.fmt(f)
    }
}

impl<T: ?Sized + ErasedModule + 'static> Module for Attached<T> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.0.collect_devices_erased(devices)
    }

    fn fork(mut self, device: &Device) -> Self {
        self.0.fork_erased(device);
        self
    }

    fn to_device(mut self, device: &Device) -> Self {
        self.0.to_device_erased(device);
        self
    }

    fn train(mut self) -> Self {
        self.0.train_erased();
        self
    }

    fn valid(&self) -> Self {
        let mut copy = self.clone();
        copy.0.valid_erased();
        copy
    }

    fn materialize(mut self) -> Self {
        self.0.materialize_erased();
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit_erased(&mut Restore(visitor));
    }

    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        self.0.map_erased(&mut Restore(mapper));
        self
    }
}

impl<T: ?Sized + ErasedModule + 'static> burn::module::ModuleDisplayDefault for Attached<T> {
    fn content(&self, content: burn::module::Content) -> Option<burn::module::Content> {
        Some(content)
    }
}

impl<T: ?Sized + ErasedModule + 'static> burn::module::ModuleDisplay for Attached<T> {}

/// The kind of a parameter that crosses the erased boundary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `Param<Tensor<D>>`
    Float,
    /// `Param<Tensor<D, Int>>`
    Int,
    /// `Param<Tensor<D, Bool>>`
    Bool,
}

/// Object-safe counterpart of [`ModuleVisitor`]; `rank` and `kind` tell the parameter's type.
pub trait ErasedVisitor {
    /// A parameter `Param<Tensor<rank, kind>>`.
    fn visit(&mut self, rank: usize, kind: Kind, param: &dyn Any);
    /// See [`ModuleVisitor::visit_flag`].
    fn visit_flag(&mut self, flag: &Param<Flag>);
    /// See [`ModuleVisitor::enter_module`].
    fn enter(&mut self, name: &str, container: &str);
    /// See [`ModuleVisitor::exit_module`].
    fn exit(&mut self, name: &str, container: &str);
}

/// Object-safe counterpart of [`ModuleMapper`].
pub trait ErasedMapper {
    /// Replaces a parameter by one of the same type.
    fn map(&mut self, rank: usize, kind: Kind, param: Box<dyn Any>) -> Box<dyn Any>;
    /// See [`ModuleMapper::map_flag`].
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
    /// See [`ModuleMapper::enter_module`].
    fn enter(&mut self, name: &str, container: &str);
    /// See [`ModuleMapper::exit_module`].
    fn exit(&mut self, name: &str, container: &str);
}

/// From Burn's generic visitor or mapper to the object-safe one.
struct Erase<'a, T: ?Sized>(&'a mut T);

impl ModuleVisitor for Erase<'_, dyn ErasedVisitor + '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.visit(D, Kind::Float, param);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.visit(D, Kind::Int, param);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.visit(D, Kind::Bool, param);
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag);
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// What a mapper gave back has the type it was given: both sides of the boundary are in this file.
fn restored<T: 'static>(param: Box<dyn Any>) -> T {
    *param.downcast().expect("a mapped parameter keeps its type")
}

impl ModuleMapper for Erase<'_, dyn ErasedMapper + '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        restored(self.0.map(D, Kind::Float, Box::new(param)))
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        restored(self.0.map(D, Kind::Int, Box::new(param)))
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        restored(self.0.map(D, Kind::Bool, Box::new(param)))
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// From the object-safe visitor or mapper back to Burn's generic one.
struct Restore<'a, T>(&'a mut T);

/// Calls `$body` with the constant `$d` set to a rank known only at run time.
macro_rules! with_rank {
    ($rank:expr, $d:ident => $body:expr) => {
        with_rank!(@ $rank, $d => $body; 1 2 3 4 5 6)
    };
    (@ $rank:expr, $d:ident => $body:expr; $($n:literal)*) => {
        match $rank {
            $($n => { const $d: usize = $n; $body })*
            rank => unreachable!("parameters have rank 1 to 6, not {rank}"),
        }
    };
}

fn known<T: 'static>(param: &dyn Any) -> &T {
    param.downcast_ref().expect("rank and kind tell a parameter's type")
}

impl<V: ModuleVisitor> ErasedVisitor for Restore<'_, V> {
    fn visit(&mut self, rank: usize, kind: Kind, param: &dyn Any) {
        with_rank!(rank, D => match kind {
            Kind::Float => self.0.visit_float(known::<Param<Tensor<D>>>(param)),
            Kind::Int => self.0.visit_int(known::<Param<Tensor<D, Int>>>(param)),
            Kind::Bool => self.0.visit_bool(known::<Param<Tensor<D, Bool>>>(param)),
        });
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag);
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl<M: ModuleMapper> ErasedMapper for Restore<'_, M> {
    fn map(&mut self, rank: usize, kind: Kind, param: Box<dyn Any>) -> Box<dyn Any> {
        with_rank!(rank, D => match kind {
            Kind::Float => Box::new(self.0.map_float(restored::<Param<Tensor<D>>>(param))),
            Kind::Int => Box::new(self.0.map_int(restored::<Param<Tensor<D, Int>>>(param))),
            Kind::Bool => Box::new(self.0.map_bool(restored::<Param<Tensor<D, Bool>>>(param))),
        })
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}
