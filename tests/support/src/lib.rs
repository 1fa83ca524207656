//! What the tests share: a broker process, ports, real data, and the rules of the source tree.
