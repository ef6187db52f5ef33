# The module _cuda. nvcc is FASTLOSS_NVCC, else the one that pip has installed beside Python, else
# the system's. CMake's own support of CUDA is not used: it looks for a toolkit in one place, and
# PyPI's packages are laid out otherwise.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import sysconfig, sys, pathlib
roots = [p for p in sys.path if p]
found = [f for r in roots for f in pathlib.Path(r).glob('nvidia/cu${FASTLOSS_CUDA}/bin/nvcc')]
print(found[0].parent.parent if found else '')"
  OUTPUT_VARIABLE toolkit_of_pip OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(NOT FASTLOSS_NVCC)
  unset(FASTLOSS_NVCC CACHE)  # empty counts as found
endif()
find_program(FASTLOSS_NVCC nvcc HINTS "${toolkit_of_pip}" ENV CUDA_HOME PATHS /usr/local/cuda
             PATH_SUFFIXES bin DOC "The CUDA compiler")
if(NOT FASTLOSS_NVCC)
  message(FATAL_ERROR "FASTLOSS_CUDA=${FASTLOSS_CUDA} asks for CUDA kernels, but there is no nvcc: "
                      "install nvidia-cuda-nvcc or a CUDA toolkit")
endif()
execute_process(COMMAND "${FASTLOSS_NVCC}" --version OUTPUT_VARIABLE nvcc_version
                COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCH "release ([0-9]+)\\.([0-9]+)" found "${nvcc_version}")
if(NOT CMAKE_MATCH_1 STREQUAL "${FASTLOSS_CUDA}")
  message(FATAL_ERROR "FASTLOSS_CUDA=${FASTLOSS_CUDA}, but ${FASTLOSS_NVCC} is of CUDA ${CMAKE_MATCH_1}")
endif()
get_filename_component(toolkit "${FASTLOSS_NVCC}" REALPATH)
get_filename_component(toolkit "${toolkit}" DIRECTORY)
get_filename_component(toolkit "${toolkit}" DIRECTORY)
find_library(FASTLOSS_CUDART cudart_static REQUIRED NO_DEFAULT_PATH
             PATHS "${toolkit}" "${toolkit}/targets/x86_64-linux" "${toolkit}/targets/sbsa-linux"
             PATH_SUFFIXES lib64 lib)
find_path(FASTLOSS_CUDA_INCLUDE cuda_runtime_api.h REQUIRED NO_DEFAULT_PATH
          PATHS "${toolkit}" "${toolkit}/targets/x86_64-linux" "${toolkit}/targets/sbsa-linux"
          PATH_SUFFIXES include)

# Machine code for every architecture, and PTX of the last for those to come.
set(architectures "${FASTLOSS_CUDA_ARCHITECTURES}")
if(NOT architectures)
  set(architectures 75 80 86 89 90 100 120)
  if(FASTLOSS_CUDA VERSION_LESS 13)
    set(architectures 70 75 80 86 89 90)
  endif()
endif()
string(REPLACE "," ";" architectures "${architectures}")
set(targets)
foreach(architecture IN LISTS architectures)
  list(APPEND targets "-gencode=arch=compute_${architecture},code=sm_${architecture}")
  set(newest "${architecture}")
endforeach()
list(APPEND targets "-gencode=arch=compute_${newest},code=compute_${newest}")
set(compression)
if(FASTLOSS_CUDA VERSION_GREATER_EQUAL 13)
  set(compression --compress-mode=size)
endif()

set(objects)
file(GLOB_RECURSE headers "${PROJECT_SOURCE_DIR}/csrc/*.h")
foreach(compute float double)
  string(REPLACE "float" "kernels_f32" name "${compute}")
  string(REPLACE "double" "kernels_f64" name "${name}")
  set(object "${PROJECT_BINARY_DIR}/cuda_${name}.o")
  add_custom_command(
    OUTPUT "${object}"
    COMMAND "${FASTLOSS_NVCC}" -std=c++17 -O3 --expt-relaxed-constexpr ${targets} ${compression}
            -Xcompiler=-fPIC,-fvisibility=hidden "-I${PROJECT_SOURCE_DIR}/csrc"
            -DFASTLOSS_COMPUTE=${compute} -DFASTLOSS_KERNELS=${name}
            -c "${PROJECT_SOURCE_DIR}/csrc/cuda/kernels.cu" -o "${object}"
    DEPENDS "${PROJECT_SOURCE_DIR}/csrc/cuda/kernels.cu" ${headers}
    COMMENT "CUDA kernels of ${compute}" VERBATIM COMMAND_EXPAND_LISTS)
  list(APPEND objects "${object}")
endforeach()

pybind11_add_module(_cuda MODULE
  csrc/bind/cuda.cpp csrc/bind/xla.cpp csrc/bind/xla_cuda.cpp csrc/cpu/view.cpp csrc/cuda/cuts.cpp
  csrc/cuda/device.cpp csrc/cuda/driver.cpp csrc/losses.cpp csrc/operation.cpp csrc/plan.cpp
  csrc/plan_sum.cpp ${objects})
set_source_files_properties(${objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
list(JOIN architectures " " described)
target_compile_definitions(_cuda PRIVATE
  "FASTLOSS_CUDA_ARCHITECTURES=\"CUDA ${FASTLOSS_CUDA} for ${described} and newer\"")
target_include_directories(_cuda PRIVATE "${FASTLOSS_CUDA_INCLUDE}")
find_package(Threads REQUIRED)
target_link_libraries(_cuda PRIVATE fastloss_options "${FASTLOSS_CUDART}" Threads::Threads rt
                                    ${CMAKE_DL_LIBS})
install(TARGETS _cuda DESTINATION fastloss)
