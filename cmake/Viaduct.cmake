# The ways something is declared in this project: a layer, a program, a test binary, a Python test, a fuzz target.
include(${CMAKE_CURRENT_LIST_DIR}/Layers.cmake)

# viaduct_layer(NAME SRCS ... [DEPS layer ...] [LIBS target ...] [NOT_BUILT file ...])
# One static library for a folder of viaduct/. DEPS may only name layers before it; every header in the folder
# belongs to it; every source file in the folder must be listed, those that another configuration builds as NOT_BUILT.
function(viaduct_layer NAME)
  cmake_parse_arguments(A "" "" "SRCS;DEPS;LIBS;GENERATED;NOT_BUILT" ${ARGN})
  list(FIND VIADUCT_LAYERS ${NAME} me)
  if(me EQUAL -1)
    message(FATAL_ERROR "'${NAME}' is not in cmake/Layers.cmake")
  endif()
  file(GLOB on_disk RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} CONFIGURE_DEPENDS *.cpp)
  foreach(source IN LISTS on_disk)
    if(NOT source IN_LIST A_SRCS AND NOT source IN_LIST A_NOT_BUILT)
      message(WARNING "viaduct/${NAME}/${source} is on disk and in no target")
    endif()
  endforeach()
  add_library(viaduct_${NAME} STATIC ${A_SRCS} ${A_GENERATED})
  add_library(viaduct::${NAME} ALIAS viaduct_${NAME})
  foreach(dep IN LISTS A_DEPS)
    list(FIND VIADUCT_LAYERS ${dep} it)
    if(it EQUAL -1 OR NOT it LESS me)
      message(FATAL_ERROR "layering: '${NAME}' may not depend on '${dep}'")
    endif()
    target_link_libraries(viaduct_${NAME} PUBLIC viaduct_${dep})
  endforeach()
  target_link_libraries(viaduct_${NAME} PUBLIC viaduct_options PRIVATE ${A_LIBS})
  list(FIND VIADUCT_LAYERS torchx torch_line)
  if(NOT me LESS torch_line)
    viaduct_uses_torch(viaduct_${NAME})
  endif()
endfunction()

# viaduct_program(NAME SRCS ... DEPS target ...): a program that can be carried to any Linux machine: everything but the C
# library is linked statically, and a test says so.
function(viaduct_program NAME)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${NAME} ${A_SRCS})
  target_link_libraries(${NAME} PRIVATE ${A_DEPS} viaduct_options)
  if(NOT VIADUCT_SANITIZE)
    target_link_options(${NAME} PRIVATE -static-libstdc++ -static-libgcc)
    if(VIADUCT_TESTS)
      add_test(NAME ${NAME}.carries_its_libraries COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:${NAME}>
               -P ${PROJECT_SOURCE_DIR}/cmake/CheckLibraries.cmake)
      set_tests_properties(${NAME}.carries_its_libraries PROPERTIES LABELS unit)
    endif()
  endif()
endfunction()

# viaduct_train_program(NAME SRCS ... DEPS target ...): a program that uses libtorch, which it finds where the build found it.
function(viaduct_train_program NAME)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${NAME} ${A_SRCS})
  target_link_libraries(${NAME} PRIVATE ${A_DEPS} viaduct_options)
  viaduct_uses_torch(${NAME})
endfunction()

# viaduct_test(NAME SRCS ... DEPS target ... LABELS label ... [TIMEOUT seconds] [GOLDEN] [TORCH])
# TORCH: uses libtorch, and its precompiled header. GOLDEN: reads reference checkpoints, which lie in VIADUCT_GOLDEN_DIR (tests/golden/fixtures, unpacked).
function(viaduct_test NAME)
  cmake_parse_arguments(A "GOLDEN;TORCH" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(NOT VIADUCT_TESTS OR VIADUCT_FUZZ)
    return()
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  add_executable(${NAME} ${A_SRCS})
  target_link_libraries(${NAME} PRIVATE ${A_DEPS} viaduct_options GTest::gmock GTest::gtest_main)
  target_compile_definitions(${NAME} PRIVATE VIADUCT_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             VIADUCT_GOLDEN_DIR="${PROJECT_BINARY_DIR}/golden")
  if(A_GOLDEN)
    add_dependencies(${NAME} golden_fixtures)
  endif()
  if(A_TORCH)
    viaduct_uses_torch(${NAME})
  endif()
  gtest_discover_tests(${NAME} DISCOVERY_TIMEOUT 60 PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${A_TIMEOUT})
endfunction()

# viaduct_python_test(NAME SCRIPT [ARGS ...] [LABELS label ...] [TIMEOUT seconds])
# Runs a Python script with the interpreter of the test environment (tools/setup test). Environment: VIADUCT (the
# program), VIADUCT_GOLDEN (the unpacked fixtures), VIADUCT_SCRATCH (a folder of its own), VIADUCT_REPORT (a file whose
# lines are shown at the end of the run); tests/python/viaduct_test.py reads them.
function(viaduct_python_test NAME SCRIPT)
  cmake_parse_arguments(A "" "TIMEOUT;COST" "ARGS;LABELS" ${ARGN})
  if(NOT VIADUCT_TESTS OR VIADUCT_FUZZ)
    return()
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 300)
  endif()
  if(NOT A_COST)
    set(A_COST 10)
  endif()
  cmake_path(ABSOLUTE_PATH SCRIPT BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
  add_test(NAME ${NAME} COMMAND ${VIADUCT_TEST_PYTHON} ${SCRIPT} ${A_ARGS})
  set_tests_properties(${NAME} PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${A_TIMEOUT} COST ${A_COST}
    ENVIRONMENT "VIADUCT=${PROJECT_BINARY_DIR}/bin/viaduct;VIADUCT_SOURCE=${PROJECT_SOURCE_DIR};VIADUCT_GOLDEN=${PROJECT_BINARY_DIR}/golden;VIADUCT_SCRATCH=${PROJECT_BINARY_DIR}/scratch/${NAME};VIADUCT_REPORT=${PROJECT_BINARY_DIR}/reports/${NAME}.txt;PYTHONPATH=${PROJECT_SOURCE_DIR}/tests/python;OMP_NUM_THREADS=1"
    ENVIRONMENT_MODIFICATION "PYTHONDONTWRITEBYTECODE=unset:")
endfunction()

# viaduct_fuzz(NAME SRC DEPS target ... [CORPUS folder] [FINDS what]): a libFuzzer target under the fuzz preset, elsewhere a program that runs
# the target's corpus (tests/fuzz/corpus/NAME) once, as a test. With VIADUCT_FUZZ_SECONDS the libFuzzer program of
# build/fuzz runs that long as a second test. CORPUS: another target's stored inputs. FINDS: the run must end with this
# finding of the address sanitizer (a planted fault).
function(viaduct_fuzz NAME)
  cmake_parse_arguments(A "" "CORPUS;FINDS" "SRCS;DEPS" ${ARGN})
  if(NOT A_CORPUS)
    set(A_CORPUS ${NAME})
  endif()
  if(VIADUCT_FUZZ)
    add_executable(fuzz_${NAME} ${A_SRCS})
    target_link_options(fuzz_${NAME} PRIVATE -fsanitize=fuzzer)
    if(NOT TARGET fuzz_programs)
      add_custom_target(fuzz_programs)
    endif()
    add_dependencies(fuzz_programs fuzz_${NAME})
  elseif(VIADUCT_TESTS)
    add_executable(fuzz_${NAME} ${A_SRCS} ${PROJECT_SOURCE_DIR}/tests/fuzz/run_corpus.cpp)
    add_test(NAME fuzz.${NAME} COMMAND fuzz_${NAME} ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${A_CORPUS})
    set_tests_properties(fuzz.${NAME} PROPERTIES LABELS "fuzz" TIMEOUT 120)
    if(VIADUCT_FUZZ_SECONDS GREATER 0)
      set(program ${PROJECT_SOURCE_DIR}/build/fuzz/bin/fuzz_${NAME})
      math(EXPR limit "${VIADUCT_FUZZ_SECONDS} + 120")
      add_test(NAME fuzz_run.${NAME} COMMAND ${CMAKE_COMMAND} -DNAME=${NAME} -DPROGRAM=${program}
               -DCORPUS=${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${A_CORPUS} -DFINDS=${A_FINDS} -DSECONDS=${VIADUCT_FUZZ_SECONDS}
               -DREPORT=${PROJECT_BINARY_DIR}/reports/fuzz_${NAME}.txt -DSCRATCH=${PROJECT_BINARY_DIR}/fuzz/${NAME}
               -P ${PROJECT_SOURCE_DIR}/cmake/RunFuzz.cmake)
      set_tests_properties(fuzz_run.${NAME} PROPERTIES LABELS "fuzz" TIMEOUT ${limit} REQUIRED_FILES ${program}
                           COST ${VIADUCT_FUZZ_SECONDS})
    endif()
  else()
    return()
  endif()
  target_link_libraries(fuzz_${NAME} PRIVATE ${A_DEPS} viaduct_options)
endfunction()

# viaduct_dist_test(NAME SRCS ... DEPS target ... RANKS n ... [LABELS label ...] [TIMEOUT seconds])
# A program of several processes: gtest cases that all ranks run in the same order (tests/dist/dist_main.cpp holds main,
# tests/dist/dist_world.h the world). For each number of ranks a test NAME.n under torchrun on the loopback interface.
# Starting costs seconds, so many cases belong into one program. Ranks wait for each other for at most a minute.
function(viaduct_dist_test NAME)
  cmake_parse_arguments(A "" "TIMEOUT" "SRCS;DEPS;RANKS;LABELS" ${ARGN})
  if(NOT VIADUCT_TESTS OR VIADUCT_FUZZ)
    return()
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 600)
  endif()
  add_executable(${NAME} ${A_SRCS} ${PROJECT_SOURCE_DIR}/tests/dist/dist_main.cpp)
  target_link_libraries(${NAME} PRIVATE ${A_DEPS} viaduct::parallel viaduct_options GTest::gmock GTest::gtest)
  target_compile_definitions(${NAME} PRIVATE VIADUCT_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             VIADUCT_GOLDEN_DIR="${PROJECT_BINARY_DIR}/golden")
  viaduct_uses_torch(${NAME})
  foreach(ranks IN LISTS A_RANKS)
    add_test(NAME ${NAME}.${ranks} COMMAND ${PROJECT_SOURCE_DIR}/.venv/train/bin/torchrun --no-python --standalone
             --nproc-per-node ${ranks} $<TARGET_FILE:${NAME}> --gtest_brief=1)
    # torchrun ends its processes when it is told to end; killed, it would leave them.
    set_tests_properties(${NAME}.${ranks} PROPERTIES LABELS "dist;${A_LABELS}" TIMEOUT ${A_TIMEOUT}
      TIMEOUT_SIGNAL_NAME SIGTERM TIMEOUT_SIGNAL_GRACE_PERIOD 20 PROCESSORS ${ranks}
      ENVIRONMENT "OMP_NUM_THREADS=1;TORCH_CPP_LOG_LEVEL=ERROR")
  endforeach()
endfunction()
