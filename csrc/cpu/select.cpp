// Chooses the kernels of this processor.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "api.h"
#include "cpu/kernels.h"

namespace fastloss {
namespace cpu {
namespace {

const kernel_table& select_kernels() {
#if defined(FASTLOSS_X86_64)
  const char* forced = std::getenv("FASTLOSS_ISA");
  const std::string isa = forced ? forced : "";
  if (!isa.empty() && isa != "x86-64-v2" && isa != "x86-64-v3" && isa != "x86-64-v4")
    throw std::invalid_argument("FASTLOSS_ISA must be x86-64-v2, x86-64-v3 or x86-64-v4, got " +
                                isa);
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if ((isa == "x86-64-v3" && !v3) || (isa == "x86-64-v4" && !v4))
    throw std::invalid_argument("FASTLOSS_ISA=" + isa + " is not supported by this processor");
  if (isa.empty() ? v4 : isa == "x86-64-v4") return kernels_x86_64_v4();
  if (isa.empty() ? v3 : isa == "x86-64-v3") return kernels_x86_64_v3();
#endif
  return kernels_baseline();
}

}  // namespace

const kernel_table& kernels() {
  static const kernel_table& chosen = select_kernels();
  return chosen;
}

}  // namespace cpu

const char* instruction_set() { return cpu::kernels().isa; }

}  // namespace fastloss
