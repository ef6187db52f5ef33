// Runs operations (csrc/operation.h) from the standard input and writes their outputs to the
// standard output: what a processor without Python needs to be tested. Numbers are int64, arrays
// contiguous; see run_operations in test_arm.py, which writes the input.
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "operation.h"

using namespace fastloss;

namespace {

template <class T>
bool read(T* to, std::size_t n) {
  return std::fread(to, sizeof(T), n, stdin) == n;
}

std::int64_t read_number() {
  std::int64_t n;
  if (!read(&n, 1)) throw std::runtime_error("the input ends too early");
  return n;
}

struct held_array {
  array described;
  std::vector<char> bytes;

  held_array(dtype type, const shape& sizes, std::size_t item) : bytes(item) {
    for (const std::int64_t n : sizes) bytes.resize(bytes.size() * n);
    described = contiguous(bytes.data(), type, sizes);
  }
};

held_array read_array() {
  const auto type = dtype(read_number());
  const std::int64_t item = read_number();
  shape sizes(read_number());
  for (std::int64_t& n : sizes) n = read_number();
  held_array a(type, sizes, item);
  if (!read(a.bytes.data(), a.bytes.size())) throw std::runtime_error("an array ends too early");
  return a;
}

void run_one(std::string line) {
  if (!read(line.data(), line.size())) throw std::runtime_error("a line ends too early");
  std::vector<held_array> inputs, outputs;
  std::vector<array> described;
  for (std::int64_t n = read_number(); n > 0; --n) inputs.push_back(read_array());
  for (const held_array& a : inputs) described.push_back(a.described);
  const operation call(line);
  outputs.reserve(call.output_count());
  call.run(described, [&](std::size_t i, const shape& sizes) {
    // The value, and the gradients for y_pred and y_true.
    const dtype stored = described[1].type;
    const bool wide = stored == dtype::f64, half = stored < dtype::f32;
    const dtype value = wide ? dtype::f64 : dtype::f32;
    const std::size_t item = wide ? 8 : half && i > 0 ? 2 : 4;
    return outputs.emplace_back(i == 0 ? value : stored, sizes, item).described;
  });
  for (const held_array& a : outputs) std::fwrite(a.bytes.data(), 1, a.bytes.size(), stdout);
}

}  // namespace

int main() {
  std::int64_t length;
  while (read(&length, 1)) run_one(std::string(length, ' '));
}
