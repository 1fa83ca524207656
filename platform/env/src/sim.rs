//! A simulated world: one thread, one seed, faults on request.
