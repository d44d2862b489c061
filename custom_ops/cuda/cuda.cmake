# The GPU operators: kernels by nvcc, adaptors by the C++ compiler, the CUDA runtime linked statically.
#
# QONNX_CUDA: ON (nvcc must be there), OFF, AUTO (built where nvcc and an NVIDIA driver are found: elsewhere the minutes
# that nvcc takes would be for nothing).
# QONNX_CUDA_ARCHITECTURES: by default 8.0, which all newer cards of its family run, and its PTX for the others; `all` is
# every card that the kernels are meant for: 75, 80, 86, 87, 89, 90, 100, 120.
set(QONNX_CUDA AUTO CACHE STRING "Build the operators of CUDAExecutionProvider: ON, OFF or AUTO")
set(QONNX_CUDA_ARCHITECTURES "80" CACHE STRING "Compute capabilities, or all")

if(QONNX_CUDA STREQUAL "OFF" OR QONNX_SANITIZE)
  return()
endif()
find_program(QONNX_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
find_library(QONNX_CUDART cudart_static HINTS ENV CUDA_PATH PATHS /usr/local/cuda
  PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib)
if(QONNX_CUDA STREQUAL "AUTO" AND NOT EXISTS /proc/driver/nvidia/version)
  message(STATUS "no NVIDIA driver: built without GPU operators (-DQONNX_CUDA=ON builds them all the same)")
  return()
endif()
if(NOT QONNX_NVCC OR NOT QONNX_CUDART)
  if(QONNX_CUDA STREQUAL "AUTO")
    message(STATUS "no nvcc with its static runtime: built without GPU operators")
    return()
  endif()
  message(FATAL_ERROR "QONNX_CUDA=${QONNX_CUDA}, but nvcc or libcudart_static.a is missing; install the CUDA toolkit "
    "or set CUDA_PATH")
endif()

set(QONNX_CUDA_FLAGS -std=c++20 -O3 -Xcompiler=-fPIC,-fvisibility=hidden)
if(QONNX_CUDA_ARCHITECTURES STREQUAL "all")
  set(architectures 75 80 86 87 89 90 100 120)
else()
  set(architectures ${QONNX_CUDA_ARCHITECTURES})
endif()
foreach(architecture ${architectures})
  list(APPEND QONNX_CUDA_FLAGS -gencode=arch=compute_${architecture},code=sm_${architecture})
endforeach()
list(GET architectures -1 newest)
list(APPEND QONNX_CUDA_FLAGS -gencode=arch=compute_${newest},code=compute_${newest})

# nvcc as a plain command: no device code is linked across files, so CMake need not know the language.
file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu)
file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.h ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cuh)
foreach(kernel ${kernels})
  get_filename_component(name ${kernel} NAME_WE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda_${name}.o)
  add_custom_command(OUTPUT ${object} COMMAND ${QONNX_NVCC} ${QONNX_CUDA_FLAGS} -c ${kernel} -o ${object}
    DEPENDS ${kernel} ${headers} VERBATIM COMMENT "nvcc ${name}.cu")
  target_sources(qonnx_ops PRIVATE ${object})
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
endforeach()

file(GLOB adaptors CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cc)
target_sources(qonnx_ops PRIVATE ${adaptors})
target_compile_definitions(qonnx_ops PRIVATE QONNX_CUDA)
find_package(Threads REQUIRED)
target_link_libraries(qonnx_ops PRIVATE ${QONNX_CUDART} Threads::Threads ${CMAKE_DL_LIBS})
if(NOT APPLE AND NOT WIN32)
  target_link_libraries(qonnx_ops PRIVATE rt)
endif()
