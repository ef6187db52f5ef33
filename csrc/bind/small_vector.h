// Small vectors as lists of Python.
#pragma once

#include <pybind11/stl.h>

#include "core/small_vector.h"

template <class T, std::size_t inside>
struct pybind11::detail::type_caster<fastloss::small_vector<T, inside>>
    : list_caster<fastloss::small_vector<T, inside>, T> {};
