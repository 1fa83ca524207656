//! Cluster metadata: commands, apply, the agreed log and its views.
