// A loop whose bodies share nothing; given an argument, one whose bodies race for a sum.
#include <cstdio>
#include <vector>

#include "cpu/parallel.h"

int main(int argc, char**) {
  constexpr std::int64_t n = 2'000'000;
  const bool races = argc > 1;
  std::vector<double> partial(n);
  std::int64_t sum = 0;
  for (int k = 0; k < 5; ++k)
    fastloss::cpu::parallel_for(n, 4, [&](std::int64_t i) {
      partial[i] += 1;
      if (races) sum += i;
    });
  double total = 0;
  for (double x : partial) total += x;
  std::printf("%.0f %lld\n", total, static_cast<long long>(sum));
}
