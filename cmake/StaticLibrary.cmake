# viaduct_static_library(NAME FILE HEADER): a library of the system in its static form, as an imported target.
function(viaduct_static_library NAME FILE HEADER)
  find_library(${NAME}_ARCHIVE NAMES lib${FILE}.a REQUIRED)
  find_path(${NAME}_INCLUDE NAMES ${HEADER} REQUIRED)
  add_library(${NAME} STATIC IMPORTED GLOBAL)
  set_target_properties(${NAME} PROPERTIES IMPORTED_LOCATION ${${NAME}_ARCHIVE}
                        INTERFACE_INCLUDE_DIRECTORIES ${${NAME}_INCLUDE})
endfunction()
