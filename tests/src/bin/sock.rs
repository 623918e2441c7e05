//! The socket helper of the suites; see `balancing_tests::sock`.

fn main() {
    balancing_tests::sock::main();
}
