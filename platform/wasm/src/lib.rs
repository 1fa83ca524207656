//! The module host: engine, store of modules, compilation, pools, budgets and worlds.
