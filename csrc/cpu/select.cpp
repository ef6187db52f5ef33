// Chooses the kernels of this processor.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "api.h"
#include "cpu/kernels.h"

namespace fastloss {
namespace cpu {
namespace {

struct build {
  const char* isa;
  bool runs_here;
  const kernel_table& (*table)();
};

// What the kernels were compiled for, from the least to the most demanding.
std::vector<build> builds() {
#if defined(FASTLOSS_X86_64)
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return {{"x86-64-v2", true, kernels_baseline},
          {"x86-64-v3", v3, kernels_x86_64_v3},
          {"x86-64-v4", v4, kernels_x86_64_v4}};
#else
  return {{kernels_baseline().isa, true, kernels_baseline}};
#endif
}

const kernel_table& select_kernels() {
  const std::vector<build> all = builds();
  const char* forced = std::getenv("FASTLOSS_ISA");
  const std::string isa = forced ? forced : "";
  const build* chosen = nullptr;
  for (const build& b : all)
    if (isa.empty() ? b.runs_here : isa == b.isa) chosen = &b;
  if (!chosen) {
    std::string names;
    for (const build& b : all) names += (names.empty() ? "" : ", ") + std::string(b.isa);
    throw std::invalid_argument("FASTLOSS_ISA: expected one of " + names + ", got " + isa);
  }
  if (!chosen->runs_here)
    throw std::invalid_argument("FASTLOSS_ISA: expected what this processor supports, got " + isa);
  return chosen->table();
}

}  // namespace

const kernel_table& kernels() {
  static const kernel_table& chosen = select_kernels();
  return chosen;
}

}  // namespace cpu

const char* instruction_set() { return cpu::kernels().isa; }

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const cpu::build& b : cpu::builds())
    if (b.runs_here) names.emplace_back(b.isa);
  return names;
}

}  // namespace fastloss
