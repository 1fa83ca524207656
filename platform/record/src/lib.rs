//! Record batch v2: view, builder, iterator, CRC-32C and compression.
