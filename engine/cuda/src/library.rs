//! Where the toolkit's libraries are looked for: they are no part of the driver, and are opened at run time.

use std::path::{Path, PathBuf};

use libloading::Library;

/// A library that may be there.
pub(crate) struct Wanted {
    /// Its name without prefix and suffix: `nvrtc`.
    pub(crate) stem: &'static str,
    /// The environment variable that names its file.
    pub(crate) variable: &'static str,
    /// The package of the Python registry that brings it, and the folders within `site-packages` where that puts it.
    pub(crate) package: &'static str,
    pub(crate) folders: [&'static str; 2],
}

/// Versions of the toolkit that are looked for, the newest first.
const VERSIONS: [u32; 2] = [13, 12];

impl Wanted {
    /// Opens the first that is there: the file that the environment names, the toolkit's, one in the library path, and that of the package.
    ///
    /// # Errors
    /// What is missing and how to get it.
    pub(crate) fn open(&self) -> Result<Library, String> {
        if let Some(file) = std::env::var_os(self.variable) {
            let file = PathBuf::from(file);
            return load(&file)
                .map_err(|why| format!("{}: {}: {why}", self.variable, file.display()));
        }
        let names = self.names();
        let folders = toolkits().into_iter().chain(self.packages());
        let files = folders
            .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
            .filter(|file| file.exists());
        let opened = names.iter().map(PathBuf::from).chain(files);
        opened
            .into_iter()
            .find_map(|file| load(&file).ok())
            .ok_or_else(|| {
                format!(
                    "lib{} not found; it comes with the CUDA toolkit, or by `pip install {}`",
                    self.stem, self.package
                )
            })
    }

    fn names(&self) -> Vec<String> {
        if cfg!(windows) {
            VERSIONS
                .iter()
                .map(|version| format!("{}64_{version}0_0.dll", self.stem))
                .collect()
        } else {
            let versions = VERSIONS
                .iter()
                .map(|version| format!("lib{}.so.{version}", self.stem));
            versions.chain([format!("lib{}.so", self.stem)]).collect()
        }
    }

    /// Folders of the package, in every Python environment that is easily found.
    fn packages(&self) -> Vec<PathBuf> {
        let mut roots: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
            .iter()
            .filter_map(std::env::var_os)
            .map(PathBuf::from)
            .collect();
        roots.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".local")));
        roots.extend(["/usr/local", "/usr"].map(PathBuf::from));
        let pythons = roots.iter().flat_map(|root| entries(&root.join("lib")));
        let pythons = pythons.filter(|folder| {
            let name = folder.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with("python3")
        });
        let sites = pythons
            .flat_map(|python| ["site-packages", "dist-packages"].map(|site| python.join(site)));
        sites
            .flat_map(|site| self.folders.map(|folder| site.join(folder)))
            .collect()
    }
}

/// Folders of installed toolkits.
fn toolkits() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"]
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from);
    named
        .chain([PathBuf::from("/usr/local/cuda")])
        .flat_map(|root| ["lib64", "lib", "bin"].map(|folder| root.join(folder)))
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn load(file: &Path) -> Result<Library, libloading::Error> {
    #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
    // SAFETY: a library of the CUDA toolkit, by the names that it is installed under, or one that the user names.
    unsafe {
        Library::new(file)
    }
}
