// A vector whose first elements lie in the object itself.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <type_traits>
#include <vector>

namespace fastloss {

// For the shapes and axes of a call: to allocate a few of them takes longer than to compute a small
// loss. What there is of std::vector's interface works as it does there, but erase takes an index;
// an object that was moved from may only be assigned to or destroyed.
template <class T, std::size_t inside = 4>
class small_vector {
  static_assert(std::is_trivially_copyable_v<T>);
  template <class It>
  using if_iterator = typename std::iterator_traits<It>::iterator_category;

 public:
  using value_type = T;
  using iterator = T*;
  using const_iterator = const T*;

  small_vector() = default;
  explicit small_vector(std::size_t n, T x = T()) { resize(n, x); }
  small_vector(std::initializer_list<T> all) : small_vector(all.begin(), all.end()) {}
  template <class It, class = if_iterator<It>>
  small_vector(It first, It last) {
    resize(std::distance(first, last));
    std::copy(first, last, data());
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return size_ <= inside ? few_ : many_.data(); }
  const T* data() const { return size_ <= inside ? few_ : many_.data(); }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }
  T& front() { return *begin(); }
  const T& front() const { return *begin(); }
  T& back() { return end()[-1]; }
  const T& back() const { return end()[-1]; }

  void resize(std::size_t n, T x = T()) {
    if (n > inside) {
      if (size_ <= inside) many_.assign(few_, few_ + size_);
      many_.resize(n, x);
    } else {
      if (size_ > inside) std::copy_n(many_.data(), n, few_);
      if (size_ < n) std::fill(few_ + size_, few_ + n, x);
    }
    size_ = n;
  }
  void push_back(T x) { resize(size_ + 1, x); }
  void pop_back() { resize(size_ - 1); }
  void erase(std::size_t i) {
    std::copy(begin() + i + 1, end(), begin() + i);
    pop_back();
  }
  void clear() { resize(0); }

  friend bool operator==(const small_vector& a, const small_vector& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }
  friend bool operator!=(const small_vector& a, const small_vector& b) { return !(a == b); }

 private:
  T few_[inside] = {};
  std::vector<T> many_;  // all elements, if they are more than fit inside
  std::size_t size_ = 0;
};

}  // namespace fastloss
