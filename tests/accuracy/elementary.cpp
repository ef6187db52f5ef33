// Applies an elementary function of core/math.h to pairs of numbers from the standard input.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/math.h"

namespace math = fastloss::math;

template <class T, class F>
int apply(F f) {
  std::vector<T> in;
  T pair[2];
  while (std::fread(pair, sizeof(T), 2, stdin) == 2) in.insert(in.end(), pair, pair + 2);
  const std::size_t n = in.size() / 2;
  std::vector<T> x(n), y(n), out(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = in[2 * i], y[i] = in[2 * i + 1];
#pragma omp simd
  for (std::size_t i = 0; i < n; ++i) out[i] = f(x[i], y[i]);
  return std::fwrite(out.data(), sizeof(T), n, stdout) == n ? 0 : 1;
}

template <class T>
int run(const std::string& name) {
  if (name == "exp") return apply<T>([](T x, T) { return math::exp(x); });
  if (name == "exp_of_negative") return apply<T>([](T x, T) { return math::exp_of_negative(x); });
  if (name == "expm1") return apply<T>([](T x, T) { return math::expm1(x); });
  if (name == "log_cosh_near_zero")
    return apply<T>([](T x, T) { return math::log_cosh_near_zero(x); });
  if (name == "log1p_of_share") return apply<T>([](T x, T) { return math::log1p_of_share(x); });
  if (name == "log_of_rest") return apply<T>([](T x, T) { return math::log_of_rest(x); });
  if (name == "log") return apply<T>([](T x, T) { return math::log(x); });
  if (name == "log_of_normal") return apply<T>([](T x, T) { return math::log_of_normal(x); });
  if (name == "log1p") return apply<T>([](T x, T) { return math::log1p(x); });
  if (name == "pow") return apply<T>([](T x, T y) { return math::pow(x, y); });
  if (name == "exp_difference")
    return apply<T>([](T x, T y) { return math::exp_difference(x, y); });
  if (name == "log_sum") return apply<T>([](T x, T y) { return math::log_sum(x, y); });
  if (name == "log_quotient")
    return apply<T>([](T x, T y) { return math::log_quotient(x, y, x - y); });
  if (name == "sigmoid") return apply<T>([](T x, T) { return math::logistic<T>(x).sigmoid(x); });
  if (name == "precise_sigmoid")
    return apply<T>([](T x, T) { return math::precise_logistic<T>(x).positive.hi; });
  if (name == "log1p_exp") return apply<T>([](T x, T) { return math::logistic<T>(x).log1p_odds; });
  std::fprintf(stderr, "no function is called %s\n", name.c_str());
  return 1;
}

int main(int, char** argv) {  // function, float32 or float64
  return std::strcmp(argv[2], "float32") == 0 ? run<float>(argv[1]) : run<double>(argv[1]);
}
