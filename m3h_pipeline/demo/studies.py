"""What radiological studies can show, in the sentences of their reports."""

from __future__ import annotations

# What a study shows: (sentences where it is there, sentences where it is not).
Sentences = tuple[tuple[str, ...], tuple[str, ...]]

CHEST_SENTENCES: dict[str, Sentences] = {
    "heart": (
        (
            "The cardiac silhouette is enlarged.",
            "Moderate cardiomegaly.",
            "Heart size is increased.",
        ),
        ("Heart size is normal.", "The cardiomediastinal silhouette is within normal limits."),
    ),
    "effusion": (
        (
            "{side} pleural effusion.",
            "Blunting of the {side} costophrenic angle, consistent with effusion.",
            "There is layering {side} pleural fluid.",
        ),
        (
            "No pleural effusion.",
            "The costophrenic angles are sharp.",
            "No effusion or pneumothorax.",
        ),
    ),
    "oedema": (
        (
            "Mild pulmonary edema.",
            "There is vascular congestion with interstitial edema.",
            "Perihilar haze suggests edema.",
        ),
        ("No pulmonary edema.", "No vascular congestion."),
    ),
    "opacity": (
        (
            "{site} opacity concerning for pneumonia.",
            "Consolidation in the {site}.",
            "Patchy airspace opacity, {site}.",
        ),
        ("No focal consolidation.", "The lungs are clear.", "No evidence of pneumonia."),
    ),
    "inflation": (
        (
            "The lungs are hyperinflated.",
            "Flattened diaphragms suggest obstructive disease.",
            "Emphysematous changes.",
        ),
        ("Lung volumes are normal.", "Lung volumes are low."),
    ),
    "nodules": (
        ("Multiple pulmonary nodules.", "Scattered nodular opacities suspicious for metastases."),
        ("No suspicious nodule.",),
    ),
    "aorta": (
        (
            "The aorta is calcified.",
            "Tortuous calcified aorta.",
            "Atherosclerotic calcification of the aortic arch.",
        ),
        (),
    ),
    "band": (
        ("Bibasilar atelectasis.", "Linear atelectasis at the bases."),
        (),
    ),
    "tube": (("Endotracheal tube ends above the carina.",), ()),
    "pacemaker": (("Left pectoral pacemaker with leads in place.",), ()),
    "wires": (("Sternotomy wires are intact.", "Status post median sternotomy."), ()),
    "port": (("Right chest port terminates in the SVC.",), ()),
    "line": (("Right internal jugular line in standard position.",), ()),
}

# Other studies: how likely each is ordered, and what each can show, with what makes it be there.
StudyFinding = tuple[dict[str, float], float, tuple[str, ...], tuple[str, ...]]

STUDIES: dict[str, tuple[float, dict[str, float], tuple[StudyFinding, ...]]] = {
    "CT HEAD W/O CONTRAST": (
        -0.3,
        {"brain": 1.0, "stroke": 1.2, "epilepsy": 0.8, "encephalopathy": 0.8, "age": 0.3},
        (
            (
                {"stroke": 2.6, "vascular": 0.3},
                -3.0,
                (
                    "Hypodensity in the left MCA territory, concerning for acute infarct.",
                    "Loss of gray-white differentiation.",
                    "Intraparenchymal hemorrhage.",
                ),
                ("No acute intracranial abnormality.", "No evidence of hemorrhage or infarct."),
            ),
            (
                {"vascular": 1.0, "age": 1.0, "hypertension": 0.4},
                -0.8,
                ("Chronic small vessel ischemic changes.",),
                (),
            ),
            (
                {"age": 1.0, "substance": 0.6, "epilepsy": 0.6},
                -1.0,
                ("Global cerebral atrophy.",),
                (),
            ),
        ),
    ),
    "CT ABDOMEN AND PELVIS": (
        -0.2,
        {
            "bleeding": 0.4,
            "pancreatitis": 1.8,
            "digestive_cancer": 1.2,
            "cancer": 0.5,
            "substance": 0.2,
            "gastrointestinal_bleeding": 0.8,
        },
        (
            (
                {"pancreatitis": 3.2},
                -3.2,
                ("Peripancreatic stranding.", "Edematous pancreas with surrounding fluid."),
                ("The pancreas is unremarkable.",),
            ),
            (
                {"digestive_cancer": 2.8, "cancer": 0.3},
                -3.2,
                ("Circumferential bowel wall mass.", "Hypodense pancreatic lesion."),
                ("No bowel wall thickening or mass.",),
            ),
            (
                {"metastatic_cancer": 2.8, "cancer": 0.3},
                -3.2,
                (
                    "Multiple liver lesions suspicious for metastases.",
                    "Enlarged retroperitoneal nodes.",
                ),
                ("No suspicious liver lesion.", "No adenopathy."),
            ),
            (
                {"cirrhosis": 2.5, "liver": 0.4},
                -3.0,
                ("Nodular liver contour with splenomegaly.", "Ascites."),
                ("No free fluid.",),
            ),
            (
                {"vascular": 1.0, "age": 0.6, "peripheral_artery_disease": 1.0},
                -0.6,
                ("Extensive aortoiliac calcification.",),
                (),
            ),
            ({"prostatic_hyperplasia": 2.5}, -3.5, ("The prostate is enlarged.",), ()),
            (
                {"pleural_effusion": 2.2},
                -2.5,
                ("Small pleural effusions at the bases.",),
                ("The lung bases are clear.",),
            ),
            ({"gastroesophageal_reflux": 1.8}, -2.2, ("Small hiatal hernia.",), ()),
        ),
    ),
    "LIVER AND GALLBLADDER US": (
        -1.2,
        {"liver": 0.9, "cirrhosis": 1.0, "viral_hepatitis": 0.8, "pancreatitis": 0.6},
        (
            (
                {"cirrhosis": 2.8, "liver": 0.5},
                -2.2,
                ("Coarse nodular liver.", "Cirrhotic liver with ascites and splenomegaly."),
                ("Normal liver echotexture.",),
            ),
            (
                {"obesity": 1.2, "metabolic": 0.7, "substance": 0.4},
                -1.2,
                ("Echogenic liver consistent with steatosis.",),
                (),
            ),
            (
                {"pancreatitis": 1.5, "metabolic": 0.4},
                -1.8,
                ("Cholelithiasis.",),
                ("No gallstones.",),
            ),
        ),
    ),
    "RENAL US": (
        -1.4,
        {"kidney": 0.9, "renal": 0.6, "acute_kidney_injury": 0.7, "prostatic_hyperplasia": 0.5},
        (
            (
                {"chronic_kidney_disease": 2.4, "renal": 0.5},
                -2.0,
                ("Small echogenic kidneys.", "Bilateral cortical thinning."),
                ("Normal size kidneys.",),
            ),
            (
                {"prostatic_hyperplasia": 2.4},
                -3.0,
                ("Enlarged prostate with post-void residual.",),
                (),
            ),
            (
                {"kidney": 0.5, "acute_kidney_injury": 0.4},
                -2.6,
                ("Mild hydronephrosis.",),
                ("No hydronephrosis.",),
            ),
        ),
    ),
    "BILATERAL LOWER EXTREMITY VEINS": (
        -1.5,
        {"venous_thromboembolism": 1.8, "cancer": 0.4, "congestion": 0.3},
        (
            (
                {"venous_thromboembolism": 3.0},
                -3.0,
                ("Occlusive thrombus in the femoral vein.", "Deep vein thrombosis."),
                ("No evidence of deep venous thrombosis.",),
            ),
        ),
    ),
    "CTA CHEST": (
        -1.2,
        {"venous_thromboembolism": 1.6, "breathing": 0.5, "cancer": 0.4},
        (
            (
                {"venous_thromboembolism": 3.0},
                -3.2,
                ("Segmental pulmonary emboli.", "Filling defect in the right pulmonary artery."),
                ("No pulmonary embolism.",),
            ),
            ({"copd": 2.0, "pulmonary": 0.7}, -1.8, ("Centrilobular emphysema.",), ()),
            (
                {"ischemic_heart_disease": 1.8, "vascular": 0.7},
                -1.6,
                ("Coronary artery calcifications.",),
                (),
            ),
            ({"pneumonia": 2.2}, -2.6, ("Lower lobe consolidation.",), ("No consolidation.",)),
        ),
    ),
    "KNEE FILMS": (
        -1.5,
        {"osteoarthritis": 1.4, "gout": 1.2, "age": 0.3, "severity": -0.4},
        (
            (
                {"osteoarthritis": 2.2, "age": 0.6},
                -1.6,
                ("Tricompartmental joint space narrowing.", "Degenerative changes."),
                ("Joint spaces are preserved.",),
            ),
            (
                {"gout": 2.2},
                -3.2,
                ("Periarticular erosions.", "Joint effusion with soft tissue tophus."),
                ("No joint effusion.",),
            ),
        ),
    ),
}
