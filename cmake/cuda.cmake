# SPDX-License-Identifier: MIT
# The CUDA room: GQMM_CUDA = OFF, ON, or auto (where nvcc is). GQMM_CUDA_ARCHS: what is compiled;
# 80 and 90a are the two paths, `release` stands for all that the README names and nvcc knows.
set(GQMM_CUDA OFF CACHE STRING "auto, ON or OFF")
set(GQMM_CUDA_ARCHS "80;90a" CACHE STRING
    "release, or CUDA architectures: the lowest first, which is also there as PTX")

set(gqmm_with_cuda OFF)
set(gqmm_cuda_libs "") # of programs that link libgqmm.a through pkg-config
if(GQMM_CUDA STREQUAL "auto" AND NOT CMAKE_CROSSCOMPILING AND NOT GQMM_SANITIZE)
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
        set(gqmm_with_cuda ON)
    endif()
elseif(GQMM_CUDA)
    set(gqmm_with_cuda ON)
endif()
if(NOT gqmm_with_cuda)
    return()
endif()

# CMake's own architectures are turned off: each is named with its suffix below.
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(gqmm_cuda_libs "-L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -lstdc++ -lrt -ldl")
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
# A sixth of the size, and nearly as quick to compile; the driver unpacks what is used.
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8
        AND NOT CMAKE_CUDA_FLAGS MATCHES "compress-mode")
    set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} --compress-mode=size")
endif()
# Architectures without a suffix run the first one's kernels, so that it is compiled once and
# assembled for each.
set(archs ${GQMM_CUDA_ARCHS})
if(archs STREQUAL "release")
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE known)
    set(archs "")
    foreach(arch 80 86 89 90a 100 120)
        string(REPLACE "a" "" number ${arch})
        if(known MATCHES "sm_${number}[^0-9]")
            list(APPEND archs ${arch})
        endif()
    endforeach()
    message(STATUS "CUDA architectures: ${archs}")
endif()
list(GET archs 0 first)
set(gqmm_gencode "SHELL:-gencode arch=compute_${first},code=compute_${first}")
foreach(arch ${archs})
    set(source ${arch})
    if("${first}${arch}" MATCHES "^[0-9]+$")
        set(source ${first})
    endif()
    list(APPEND gqmm_gencode "SHELL:-gencode arch=compute_${source},code=sm_${arch}")
endforeach()

function(gqmm_cuda_target name)
    target_compile_options(${name} PRIVATE
        $<$<COMPILE_LANGUAGE:CUDA>:${gqmm_gencode};-Xcompiler=-Wall;--expt-relaxed-constexpr>)
    target_include_directories(${name} PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    set_target_properties(${name} PROPERTIES CUDA_SEPARABLE_COMPILATION OFF)
endfunction()

# One object for each family, so that they build side by side, and one for the rest.
file(STRINGS src/kernel/cuda_families.def rows REGEX "^GQMM_CUDA_FAMILY\\( ")
set(gqmm_cuda_objects "")
foreach(row ${rows})
    string(REGEX REPLACE "GQMM_CUDA_FAMILY\\( *([a-z0-9_]+), *([0-3]).*" "\\1;\\2" row "${row}")
    list(GET row 0 family)
    list(GET row 1 wide)
    add_library(gqmm-cuda-${family} OBJECT src/kernel/cuda/family.cu)
    target_compile_definitions(gqmm-cuda-${family} PRIVATE GQMM_FAMILY=${family}
        GQMM_WIDE=${wide})
    gqmm_cuda_target(gqmm-cuda-${family})
    list(APPEND gqmm_cuda_objects $<TARGET_OBJECTS:gqmm-cuda-${family}>)
endforeach()
file(GLOB others CONFIGURE_DEPENDS src/kernel/cuda/*.cu)
list(FILTER others EXCLUDE REGEX "/family\\.cu$")
file(GLOB operations CONFIGURE_DEPENDS src/op/cuda/*.c)
add_library(gqmm-cuda-rest OBJECT ${others} ${operations})
gqmm_cuda_target(gqmm-cuda-rest)
# Quantised bytes are promised to equal the CPU's, whose arithmetic fuses nothing.
set_source_files_properties(src/kernel/cuda/round.cu PROPERTIES COMPILE_OPTIONS -fmad=false)
list(APPEND gqmm_cuda_objects $<TARGET_OBJECTS:gqmm-cuda-rest>)

# What a model needs around the products.
set(gqmm_model_cuda_objects "")
if(GQMM_MODEL)
    file(GLOB model_cuda_sources CONFIGURE_DEPENDS src/model/cuda/*.cu)
    add_library(gqmm-model-cuda OBJECT ${model_cuda_sources})
    gqmm_cuda_target(gqmm-model-cuda)
    set(gqmm_model_cuda_objects $<TARGET_OBJECTS:gqmm-model-cuda>)
endif()
