#include "api.h"
#include "losses/list.h"

namespace fastloss {
namespace {

template <std::size_t N>
std::vector<std::string> as_vector(const names<N>& n) {
  return {n.values, n.values + N};
}
std::vector<std::string> as_vector(const no_names&) { return {}; }

template <template <class> class... Loss>
std::vector<loss_info> describe(loss_list<Loss...>) {
  constexpr const char* kinds[] = {"map", "row", "region", "pairwise"};
  return {{Loss<float>::name, kinds[static_cast<int>(Loss<float>::loss_kind)], Loss<float>::sparse,
           Loss<float>::uses_target, as_vector(Loss<float>::parameters)}...};
}

}  // namespace

const std::vector<loss_info>& losses() {
  // Never destroyed: a daemon thread may compute until the process has ended.
  static const auto& all = *new std::vector<loss_info>(describe(all_losses{}));
  return all;
}

}  // namespace fastloss
