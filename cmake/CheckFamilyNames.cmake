# cmake -DROOT=<repository> -P CheckFamilyNames.cmake
# Families are described in viaduct/models and nowhere else: refuses a line of code (comments do not count) in another
# folder of viaduct/ or in cli/ that names one. Exempt are viaduct/config and viaduct/text, where upstream's provider
# classes and transformers' tokenizer classes carry such names, and viaduct/recipes, which are for public models.
cmake_minimum_required(VERSION 3.25)
set(names "llama|mistral|ministral|qwen|gemma|olmoe|deepseek|moonlight|kimi|glm4|glm_|gptoss|gpt_oss|nemotron|decilm|pixtral|siglip")
file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/viaduct/*.h ${ROOT}/viaduct/*.cpp ${ROOT}/viaduct/*.inc ${ROOT}/cli/*.h ${ROOT}/cli/*.cpp)
set(bad 0)
set(read 0)
foreach(file IN LISTS files)
  if(file MATCHES "^viaduct/(models|config|text|recipes)/")
    continue()
  endif()
  math(EXPR read "${read}+1")
  file(STRINGS ${ROOT}/${file} lines REGEX "[A-Za-z]")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "//.*" "" code "${line}")
    string(TOLOWER "${code}" code)
    string(REPLACE "llama.cpp" "" code "${code}")  # the program, not the model
    string(REGEX REPLACE "kllama3|llama_4_scaling_beta" "" code "${code}")  # ways to scale rope, by their usual names
    if(code MATCHES "${names}")
      message(SEND_ERROR "${file}: names a family (${CMAKE_MATCH_0}): ${line}")
      math(EXPR bad "${bad}+1")
    endif()
  endforeach()
endforeach()
if(bad OR read LESS 50)
  message(FATAL_ERROR "${bad} lines of ${read} files name a family; what depends on one belongs into viaduct/models")
endif()
message(STATUS "no family is named in ${read} files outside of viaduct/models, config, recipes and text")
